//! What is usual at the servers that most sites have, so that a plain site writes no filter.

/// A kind of LDAP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `OpenLDAP` with inetOrgPerson, and inetLocalMailRecipient for further addresses.
    OpenLdap,
    /// 389 Directory Server with its mail schema.
    Ds389,
    /// Active Directory, with the attributes of Exchange.
    ActiveDirectory,
}

/// Who does not exist although there is an entry: disabled accounts. What has no such flag, groups
/// and contacts, exists; RFC 4511 makes a rule on a missing attribute neither true nor false, hence
/// the first half.
const ENABLED: &str = "(|(!(userAccountControl=*))\
    (!(userAccountControl:1.2.840.113556.1.4.803:=2)))";

impl Preset {
    /// As the configuration names them.
    pub(super) const ALL: [(&'static str, Self); 3] = [
        ("openldap", Self::OpenLdap),
        ("389ds", Self::Ds389),
        ("active-directory", Self::ActiveDirectory),
    ];

    pub(super) fn filter(self) -> String {
        match self {
            Self::OpenLdap | Self::Ds389 => "(|(mail={address})(mailAlternateAddress={address})\
                (mailLocalAddress={address}))"
                .into(),
            Self::ActiveDirectory => format!(
                "(&(|(proxyAddresses=smtp:{{address}})(mail={{address}})\
                 (userPrincipalName={{address}})){ENABLED})"
            ),
        }
    }

    pub(super) fn domain_filter(self) -> &'static str {
        match self {
            Self::OpenLdap | Self::Ds389 => {
                "(|(associatedDomain={domain})(mail=*@{domain})(mailAlternateAddress=*@{domain})\
                 (mailLocalAddress=*@{domain}))"
            }
            Self::ActiveDirectory => {
                "(|(proxyAddresses=smtp:*@{domain})(mail=*@{domain})(userPrincipalName=*@{domain}))"
            }
        }
    }

    /// Whose membership is asked about; accounts have names without a domain too.
    pub(super) fn account_filter(self) -> String {
        match self {
            Self::OpenLdap | Self::Ds389 => "(|(uid={address})(mail={address})\
                (mailAlternateAddress={address})(mailLocalAddress={address}))"
                .into(),
            Self::ActiveDirectory => format!(
                "(&(|(sAMAccountName={{address}})(userPrincipalName={{address}})\
                 (mail={{address}})(proxyAddresses=smtp:{{address}})){ENABLED})"
            ),
        }
    }

    /// The group of a name.
    pub(super) fn group_filter(self) -> &'static str {
        match self {
            Self::OpenLdap | Self::Ds389 => {
                "(&(cn={group})(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)\
                 (objectClass=posixGroup)))"
            }
            Self::ActiveDirectory => {
                "(&(objectClass=group)(|(cn={group})(sAMAccountName={group})(mail={group})))"
            }
        }
    }
}
