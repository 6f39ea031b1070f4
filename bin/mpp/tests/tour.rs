//! The README's tour, executed from its text. Only addresses, ports, folders and names of the
//! reader's own machine are replaced.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests, too: what is not as expected ends the test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::Smtp;
use mpp_tests::real::{address, folder, signal, until};
use tempfile::TempDir;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A fenced block: its language and its text.
struct Block {
    language: String,
    text: String,
}

/// The fenced blocks of a section of a document.
fn blocks(document: &str, section: &str) -> Vec<Block> {
    let (_, text) = document.split_once(&format!("\n## {section}\n")).expect("the section");
    let text = text.split("\n## ").next().unwrap_or_default();
    let fences = text.split("\n```").skip(1).step_by(2);
    let block = |fenced: &str| {
        let (language, text) = fenced.split_once('\n').expect("a language after the fence");
        Block { language: language.to_owned(), text: text.to_owned() }
    };
    fences.map(block).collect()
}

/// The machine on which the tour takes place.
struct Machine {
    folder: TempDir,
    address: String,
    postfix: Postfix,
    daemon: Option<Child>,
    /// The id in the document, and the one that was really given.
    id: Option<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let (folder, address) = (folder(), address());
        std::os::unix::fs::symlink(MPP, folder.path().join("mpp")).expect("our own folder");
        let postfix = Postfix::start(&address, "");
        Self { folder, address, postfix, daemon: None, id: None }
    }

    /// The text for this machine instead of the reader's.
    fn fitted(&self, text: &str) -> String {
        let etc = self.postfix.configuration();
        let etc = etc.display();
        let mut text = text
            .replace("127.0.0.1:10040", &format!("{}:10040", self.address))
            .replace("mx.example.org", "mx.test.example")
            .replace("@example.org", "@test.example")
            .replace("/etc/postfix/", &format!("{etc}/"))
            .replace("postconf -e", &format!("postconf -c {etc} -e"))
            .replace("postfix reload", &format!("postfix -c {etc} reload"));
        if let Some((written, given)) = &self.id {
            text = text.replace(written, given);
        }
        text
    }

    fn shell(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-euc", line]).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        command.env("STATE_DIRECTORY", self.folder.path().join("state"));
        command
    }

    /// Runs a command and compares what it prints with what is written: each line written is there,
    /// if only by its first words, since numbers and times are others.
    fn run(&mut self, line: &str, written: &[&str]) {
        let line = self.fitted(line);
        if line.starts_with("mpp serve") {
            return self.serve(&line);
        }
        let output = self.shell(&line).output().expect("sh");
        let printed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {printed}{said}");
        for written in written {
            let written = self.fitted(written);
            let is_there = printed.lines().any(|printed| is_alike(&written, printed));
            assert!(is_there, "{line} does not print {written:?}, but:\n{printed}");
        }
    }

    fn serve(&mut self, line: &str) {
        let log = fs::File::create(self.folder.path().join("log")).expect("our own folder");
        let child = self.shell(&format!("exec {line}")).stderr(log).spawn().expect("sh");
        self.daemon = Some(child);
        let address = format!("{}:10040", self.address);
        until("an mpp that listens", || std::net::TcpStream::connect(&address).ok());
        let line = format!("mpp: policy service on {address}");
        let said = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        until(&line, || said().contains(&line).then_some(()));
    }

    /// Says the lines of the client; what the server says that is not written is the error.
    fn converse(&mut self, text: &str) -> Result<(), String> {
        let mut smtp = Smtp::connect_silently(self.postfix.address());
        for line in self.fitted(text).lines() {
            if let Some(line) = line.strip_prefix("C: ") {
                smtp.send(format!("{line}\r\n").as_bytes());
                continue;
            }
            let written = line.strip_prefix("S: ").expect("C: or S: before every line");
            let reply = smtp.reply().to_string();
            let (written_text, written_id) = without_id(written);
            let (text, id) = without_id(&reply);
            if written_text != text {
                return Err(format!("{reply:?} is not {written:?}"));
            }
            if let (Some(written), Some(given)) = (written_id, id) {
                self.id = Some((written.to_owned(), given.to_owned()));
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            signal("KILL", &daemon.id().to_string());
            // It has ended, or never began.
            let _ = daemon.wait();
        }
    }
}

/// Whether a printed line is one as written: the same words up to the first with a number in it.
fn is_alike(written: &str, printed: &str) -> bool {
    let words = |line: &str| -> Vec<String> {
        let is_fixed = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
        line.split_whitespace().take_while(is_fixed).map(str::to_owned).collect()
    };
    written == printed || (!words(written).is_empty() && words(written) == words(printed))
}

/// A reply and the id at its end, if there is one.
fn without_id(reply: &str) -> (&str, Option<&str>) {
    match reply.rsplit_once(" (").and_then(|(text, id)| Some((text, id.strip_suffix(')')?))) {
        Some((text, id)) if id.len() == 10 => (text, Some(id)),
        _ => (reply, None),
    }
}

/// Commands with a `$ ` before them, each with the lines behind it.
fn commands(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => assert!(line.is_empty(), "output before any command: {line}"),
        }
    }
    commands
}

#[test]
fn the_tour_of_the_readme_is_as_it_says() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut machine = Machine::new();
    let mut played = 0;
    for block in blocks(&readme, "Five minutes beside Postfix") {
        match &*block.language {
            "toml" => {
                let file = machine.folder.path().join("tour.toml");
                fs::write(file, machine.fitted(&block.text)).expect("our own folder");
            }
            "console" => {
                for (command, written) in commands(&block.text) {
                    machine.run(command, &written);
                    played += 1;
                }
            }
            "smtp" => {
                // Who is told to wait waits: until it is as written, or nobody believes it any more.
                until(&block.text, || machine.converse(&block.text).ok());
                played += 1;
            }
            other => panic!("nobody knows how to run a block of {other:?}"),
        }
    }
    assert!(played > 12, "{played} steps are no tour");
}

#[test]
fn the_first_two_commands_are_those_of_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let texts: Vec<String> =
        blocks(&readme, "The two commands").into_iter().map(|block| block.text).collect();
    assert_eq!(texts, ["cargo run --release -- serve", "./test"]);
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    assert!(ci.lines().any(|line| line == "./test"), "CI runs the README's command");
    assert!(root().join("test").exists());
}

/// All documents and their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "docs/adr", "docs/checks"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(fs::read_dir).flatten().flatten().map(|file| file.path());
    let documents: Vec<(PathBuf, String)> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"))
        .map(|file| (file.clone(), fs::read_to_string(file).expect("a document")))
        .collect();
    assert!(documents.len() > 5, "there are more documents than that");
    documents
}

#[test]
fn commands_in_documents_exist() {
    for (document, text) in documents() {
        let lines = text.lines().filter_map(|line| line.strip_prefix("$ mpp "));
        for name in lines.filter_map(|line| line.split_whitespace().next()) {
            let output = Command::new(MPP).args([name, "--help"]).output().expect("mpp");
            assert!(output.status.success(), "{}: mpp {name}", document.display());
        }
    }
}
