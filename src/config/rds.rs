//! What RDS IAM needs to know of a server: which region it is in.

use super::choice::ServerAuth;
use super::file::Database;
use super::users::UserEntry;
use super::Host;

/// Ends of the names that RDS gives to its instances, clusters and proxies: `NAME.ID.REGION` goes before.
const DOMAINS: [&str; 2] = [".rds.amazonaws.com", ".rds.amazonaws.com.cn"];

/// The region that the user's logins to this server are signed for; `None` without `server_auth = "rds_iam"`.
///
/// Errors: what is missing for a signature.
pub(super) fn region(user: &UserEntry, database: &Database) -> Option<Result<String, String>> {
    if user.server_auth != ServerAuth::RdsIam {
        return None;
    }
    let host = match Host::from(database.host.as_str()) {
        Host::Tcp(host) if is_name(&host) => host,
        _ => return Some(Err(format!("\"{}\" is no name of a host", database.host))),
    };
    let region = user.server_iam_region.clone().or_else(|| inferred(&host));
    Some(region.ok_or_else(|| format!("unset, and \"{host}\" names no region")))
}

fn is_name(host: &str) -> bool {
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !host.is_empty() && host.bytes().all(in_names)
}

fn inferred(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    let before = DOMAINS
        .iter()
        .find_map(|domain| host.strip_suffix(domain))?;
    let (_, region) = before.rsplit_once('.')?;
    (!region.is_empty()).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_hosts_name_or_given() {
        for (host, given, expected) in [
            ("db.c9x.eu-west-1.rds.amazonaws.com", None, Ok("eu-west-1")),
            (
                "db.cluster-ro-c9x.us-gov-west-1.rds.amazonaws.com",
                None,
                Ok("us-gov-west-1"),
            ),
            ("DB.c9x.EU-West-1.RDS.amazonaws.com", None, Ok("eu-west-1")),
            (
                "db.c9x.cn-north-1.rds.amazonaws.com.cn",
                None,
                Ok("cn-north-1"),
            ),
            (
                "db.c9x.eu-west-1.rds.amazonaws.com",
                Some("us-east-1"),
                Ok("us-east-1"),
            ),
            ("127.0.0.1", Some("us-east-1"), Ok("us-east-1")),
            (
                "db.example.com",
                None,
                Err("unset, and \"db.example.com\" names no region"),
            ),
            (
                "eu-west-1.rds.amazonaws.com",
                None,
                Err("unset, and \"eu-west-1.rds.amazonaws.com\" names no region"),
            ),
            (
                "db.eu-west-1.rds.amazonaws.com.example",
                None,
                Err("unset, and \"db.eu-west-1.rds.amazonaws.com.example\" names no region"),
            ),
            (
                "/run/postgresql",
                Some("us-east-1"),
                Err("\"/run/postgresql\" is no name of a host"),
            ),
            (
                "::1",
                Some("us-east-1"),
                Err("\"::1\" is no name of a host"),
            ),
            (
                "a b",
                Some("us-east-1"),
                Err("\"a b\" is no name of a host"),
            ),
        ] {
            let database = Database {
                host: host.to_owned(),
                ..Database::default()
            };
            let user = UserEntry {
                server_auth: ServerAuth::RdsIam,
                server_iam_region: given.map(str::to_owned),
                ..UserEntry::default()
            };
            let found = region(&user, &database).unwrap();
            assert_eq!(
                found,
                expected.map(str::to_owned).map_err(str::to_owned),
                "{host}"
            );
            let user = UserEntry {
                server_auth: ServerAuth::Password,
                ..user
            };
            assert_eq!(region(&user, &database), None);
        }
    }
}
