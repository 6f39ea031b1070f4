//! What a server's result codes mean to somebody who only looks up (RFC 4511, appendix A).

use mpp_hub::directory::Trouble;
use mpp_wire::ldap::Outcome;

/// How much of a server's own words is repeated.
const WORDS_MAX: usize = 200;

pub(super) const SUCCESS: u32 = 0;
pub(super) const SIZE_LIMIT: u32 = 4;
pub(super) const NO_SUCH_OBJECT: u32 = 32;

/// What a search that did not succeed means.
pub(super) fn search(outcome: &Outcome, base: &str, hidden: Option<&str>) -> Trouble {
    let words = words(outcome, hidden);
    let down = |text: &str| Trouble::Down(format!("{text}{words}"));
    let not_now = |text: &str| Trouble::NotNow(format!("{text}{words}"));
    match outcome.code {
        1 => down("it refuses the search (operationsError): does it want `bind_dn`?"),
        2 => down("it does not understand the search (protocolError)"),
        3 => not_now("the search takes it too long (timeLimitExceeded): is there an index?"),
        SIZE_LIMIT => not_now("it finds more than it shows (sizeLimitExceeded)"),
        8 => down("it wants TLS or a password first (strongerAuthRequired)"),
        10 => not_now("it refers to another server (referral): ask that one"),
        11 => not_now("the search costs it too much (adminLimitExceeded): is there an index?"),
        // Something that a stranger wrote may cause these: no reason to leave the server alone.
        17 | 18 | 21 | 34 => not_now("it cannot search for this"),
        NO_SUCH_OBJECT => down(&format!("there is no {base} (noSuchObject): is the base right?")),
        50 => down(&format!("it does not allow to search below {base} (insufficientAccessRights)")),
        51 => down("it is busy (busy)"),
        52 => down("it is not available (unavailable)"),
        53 => down("it does not want to search (unwillingToPerform)"),
        code => down(&format!("it does not search (result {code})")),
    }
}

/// What a bind that did not succeed means.
pub(super) fn bind(outcome: &Outcome, dn: &str, hidden: Option<&str>) -> Trouble {
    let words = words(outcome, hidden);
    Trouble::Down(match outcome.code {
        8 | 13 => {
            format!("it takes no password without TLS: write ldaps:// or starttls = true{words}")
        }
        // 32: some servers say so instead.
        48 | 49 | 32 => format!("it refuses the password of {dn}{words}"),
        51 => format!("it is busy (busy){words}"),
        52 => format!("it is not available (unavailable){words}"),
        53 => format!("it does not let {dn} in (unwillingToPerform){words}"),
        code => format!("it does not let {dn} in (result {code}){words}"),
    })
}

/// What a refused `StartTLS` means.
pub(super) fn start_tls(outcome: &Outcome) -> Trouble {
    let words = words(outcome, None);
    Trouble::Down(format!("it knows no StartTLS (result {}){words}", outcome.code))
}

/// The server's own words, as far as they can be shown.
fn words(outcome: &Outcome, hidden: Option<&str>) -> String {
    let is_telling = hidden.is_some_and(|hidden| outcome.text.contains(hidden));
    if outcome.text.trim().is_empty() || is_telling {
        return String::new();
    }
    let printable = outcome.text.chars().map(|c| if c.is_control() { ' ' } else { c });
    format!("; it says: {}", printable.take(WORDS_MAX).collect::<String>().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_repeats_the_password_is_not_repeated() {
        let outcome = |text: &str| Outcome { code: 49, text: text.into() };
        let said = bind(&outcome("no secret1\n\x07here"), "cn=r", Some("secret1")).to_string();
        assert_eq!(said, "it refuses the password of cn=r");
        let said = bind(&outcome("go\naway"), "cn=r", Some("secret1")).to_string();
        assert_eq!(said, "it refuses the password of cn=r; it says: go away");
        let said = bind(&outcome(&"x".repeat(5_000)), "cn=r", None).to_string();
        assert!(said.len() < 300);
    }

    #[test]
    fn what_a_stranger_can_cause_takes_no_server_down() {
        for code in [3, 4, 10, 11, 17, 18, 21, 34] {
            let said = search(&Outcome { code, text: String::new() }, "o=x", None);
            assert!(matches!(said, Trouble::NotNow(_)), "{code}: {said}");
        }
    }
}
