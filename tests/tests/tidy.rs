//! What reviewers would have to look for by hand: the floors, the length of files, and what every
//! file begins with.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const LINES_MAX: usize = 600;
/// What may be used on the pure floor. A clock, a socket or a runtime is not among it.
const CORE_MAY_USE: [&str; 11] = [
    "hashbrown",
    "idna",
    "ipnet",
    "memchr",
    "psl",
    "regex",
    "serde",
    "strsim",
    "thiserror",
    "toml",
    "xxhash-rust",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A package of ours: the floor it is on, and what it depends on (not for tests).
struct Package {
    floor: String,
    uses: Vec<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata of cargo");
    let root = root().canonicalize().expect("the workspace");
    let mut packages = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("a list") {
        let folder = Path::new(package["manifest_path"].as_str().expect("a path"));
        let folder = folder.strip_prefix(&root).expect("below the workspace");
        let floor = folder.iter().next().expect("a folder").to_string_lossy().into_owned();
        let uses = package["dependencies"].as_array().expect("a list").iter();
        let uses = uses
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
            .collect();
        let name = package["name"].as_str().expect("a name").to_owned();
        packages.insert(name, Package { floor, uses });
    }
    assert!(packages.len() > 8, "the workspace has more crates than that");
    packages
}

#[test]
fn arrows_between_the_floors_point_downwards() {
    let packages = packages();
    for (name, package) in &packages {
        for used in &package.uses {
            let other = packages.get(used).map(|other| &*other.floor);
            let is_fine = match (&*package.floor, other) {
                // An edge knows the hub and the pure floor, and no other edge.
                ("edges", Some("edges")) => used == "mpp-hub",
                ("core" | "edges", Some(floor)) => floor == "core",
                ("core", None) => CORE_MAY_USE.contains(&&**used),
                ("bin", Some(floor)) => floor == "core" || floor == "edges",
                _ => true,
            };
            assert!(is_fine, "{name} may not depend on {used}");
        }
    }
}

/// All files of our own with this extension.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["bin", "core", "edges", "tests", "benches", "fuzz"]
        .iter()
        .map(|folder| root().join(folder))
        .collect();
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = file.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|its| its == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let sources = files("rs");
    assert!(sources.len() > 60, "{} files", sources.len());
    for source in sources {
        let text = fs::read_to_string(&source).expect("a source file");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", source.display());
        // A target of the fuzzer is one call of a function that says it.
        let is_target = source.iter().any(|folder| folder == "fuzz_targets");
        assert!(
            is_target || text.starts_with("//!"),
            "{} does not say what it is for",
            source.display()
        );
    }
}
