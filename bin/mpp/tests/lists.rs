//! List files and configurations that are not what was meant: a list that a failed program has
//! emptied refuses nobody, and a configuration that is not there is none of another daemon.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const OWN: &str = "[recipients.own]\ndomains = [\"test.example\"]\nfile = \"users.txt\"\n\
    [policy.default.greylist]\nmode = \"off\"\n";

fn users(count: usize) -> String {
    let each: Vec<String> = (0..count).map(|number| format!("u{number}@test.example")).collect();
    each.join("\n") + "\n"
}

fn daemon(users: &str) -> Daemon {
    let mut mpp = Daemon::new(MPP, &address(), OWN);
    mpp.write("users.txt", users);
    mpp.launch();
    mpp
}

fn answer(mpp: &Daemon, user: &str) -> String {
    mpp.client().ask(&rcpt("192.0.2.66", "a@x.example", &format!("{user}@test.example")))
}

#[test]
fn a_list_that_becomes_empty_or_loses_most_refuses_nobody_until_that_is_meant() {
    let half = users(6)[..users(6).len() - 3].to_owned();
    for (now, said) in [
        (String::new(), "holds nothing any more; it had 9 entries"),
        ("# nothing\n".to_owned(), "holds nothing any more; it had 9 entries"),
        (users(3), "has lost more than half of its entries: 3 of 9 are left"),
        (half, "ends in the middle of a line"),
        ("\0\0\0\0".to_owned(), "this is UTF-16"),
    ] {
        let mpp = daemon(&users(9));
        mpp.write("users.txt", &now);
        mpp.wait_for_word("reload refused");
        assert!(mpp.said().contains(said), "{said}: {}", mpp.said());
        assert_eq!(answer(&mpp, "u8"), "DUNNO", "the old list holds");
        mpp.hang_up();
        let vain = mpp.tell_in_vain(&["reload"]);
        assert!(vain.contains(said) && vain.contains("stays as it was\n"), "{vain}");
        let status = mpp.run(&["status", "--json"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains(said), "{status}");
        assert_eq!(answer(&mpp, "u8"), "DUNNO", "the old list holds");
        // What the program should have written comes after all.
        mpp.write("users.txt", &users(10));
        mpp.wait_for_word("configuration 2 taken, 1 policy");
        assert_eq!(answer(&mpp, "u9"), "DUNNO");
    }
}

#[test]
fn a_list_that_is_meant_to_be_shorter_is_taken_by_force() {
    let mpp = daemon(&users(9));
    mpp.write("users.txt", &users(1));
    mpp.wait_for_word("reload refused");
    mpp.tell(&["reload", "--force"]);
    assert!(answer(&mpp, "u8").contains("550 5.1.1"), "{}", answer(&mpp, "u8"));
    assert_eq!(answer(&mpp, "u0"), "DUNNO");
    mpp.tell(&["reload"]);
}

#[test]
fn a_configuration_that_is_named_and_not_there_is_an_error_of_every_command() {
    let mpp = daemon(&users(2));
    let state = mpp.folder().join("state");
    let state = state.to_str().unwrap_or_default();
    let replay = mpp.folder().join("requests");
    std::fs::write(&replay, "").unwrap_or_default();
    let replay = replay.to_str().unwrap_or_default();
    for arguments in [
        &["status"][..],
        &["stats"],
        &["reload"],
        &["check"],
        &["check", "--print"],
        &["postfix"],
        &["ask", "--client", "192.0.2.1"],
        &["explain", "0000000000"],
        &["blocks", "list"],
        &["blocks", "add", "client", "192.0.2.1"],
        &["greylist", "show", "--client", "192.0.2.1"],
        &["recipients", "show", "bob@test.example"],
        &["quarantine", "list"],
        &["store", "info"],
        &["trace", "192.0.2.1"],
        &["verdict", "spam", "--client", "192.0.2.1"],
        &["replay", replay],
        &["serve"],
    ] {
        let command = |named: bool| {
            let mut command = std::process::Command::new(MPP);
            command.args(arguments).env("STATE_DIRECTORY", state);
            if named {
                command.args(["--config", "/nowhere/typo.toml"]);
            } else {
                command.env("MPP_CONFIG", "/nowhere/typo.toml");
            }
            command.output().unwrap_or_else(|error| panic!("{error}"))
        };
        for named in [true, false] {
            let output = command(named);
            let said = String::from_utf8_lossy(&output.stderr);
            let wanted = "error: cannot read the configuration /nowhere/typo.toml";
            assert!(!output.status.success() && said.contains(wanted), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn the_environment_names_the_configuration_of_all_commands() {
    let mpp = daemon(&users(2));
    let config = mpp.folder().join("mpp.toml");
    for arguments in [&["status"][..], &["check"], &["ask", "--client", "192.0.2.1"]] {
        let mut command = std::process::Command::new(MPP);
        command.args(arguments).env("MPP_CONFIG", &config);
        let output = command.output().unwrap_or_else(|error| panic!("{error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains(&format!("configuration {}", config.display())), "{said}");
    }
}
