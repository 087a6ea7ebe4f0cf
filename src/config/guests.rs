//! Users that no file gives a password, and whom a server has vouched for: passthrough authentication, `auth_query`.
//!
//! A guest is known from the moment that a server has accepted the password, on all cores and like a user of the
//! files: later logins are compared with what is known, and servers are logged in to with it. What is never done is
//! to put a password into a pool that no server has accepted.

use std::collections::BTreeMap;

use super::choice::Role;
use super::document::Entry;
use super::problem::Problems;
use super::resolve::{pool, sort, user};
use super::users::UserEntry;
use super::{Config, Origin, PoolConfig, Secret, ServerLogin};

/// Guests that may be known at a time; further ones are refused. Those that nobody is logged in as are forgotten by
/// a reload.
pub const GUESTS_MAX: usize = 1024;

/// A user of one database whom a server has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Login name.
    pub user: String,
    /// Database, as clients know it.
    pub database: String,
    /// What servers are logged in to with.
    pub secret: GuestSecret,
    /// Who says so.
    pub voucher: Voucher,
}

/// What a guest has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestSecret {
    /// The password.
    Password(Secret),
    /// What stands for it, in the text form of [`ServerSecret::parse`](crate::auth::ServerSecret::parse).
    Keys(Secret),
}

/// How a server has vouched for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// It has accepted the password: `passthrough_auth`.
    Login {
        /// Only `_allow_change` lets another password take its place. Not so after a reload, which is how an operator
        /// has passwords forgotten.
        settled: bool,
    },
    /// It has told us what checks it: `auth_query`, which is asked again and again.
    Query,
}

/// How to look a user up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup<'a> {
    /// As whom.
    pub auth_user: &'a str,
    /// The query, whose `$1` is the user's name.
    pub query: &'a str,
}

/// Why a guest cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// The password differs from the one that is known, and may not.
    Differs,
    /// There are [`GUESTS_MAX`].
    TooMany,
}

/// What may be asked of the server about a client's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// It is not in play: the client proves itself as `auth_type` says.
    Off,
    /// The client sends its password, which must be one that is known.
    Known,
    /// The client sends its password, and where it is none that is known the server decides.
    Server,
}

impl Config {
    /// How this user may log in over a connection that is, or is not, encrypted.
    pub fn passthrough(&self, user: &str, database: &str, encrypted: bool) -> Passthrough {
        let setting = self.clients.passthrough;
        if !setting.is_for(encrypted) {
            return Passthrough::Off;
        }
        if self.cluster(database).is_none() {
            return Passthrough::Known;
        }
        let Some(user) = self.users.find(user, database) else {
            return Passthrough::Server;
        };
        let settled = match &user.origin {
            Origin::Files if user.credentials.identity.is_some() => return Passthrough::Off,
            Origin::Files => !user.credentials.is_empty(),
            Origin::Guest(_) if user.credentials.password_hash.is_some() => true,
            Origin::Guest(guest) => guest.voucher == Voucher::Login { settled: true },
        };
        if settled && !setting.allows_change() {
            Passthrough::Known
        } else {
            Passthrough::Server
        }
    }

    /// How to find out about a user who has no password here; `None` if that is not to be done.
    pub fn lookup(&self, user: &str, database: &str) -> Option<Lookup<'_>> {
        let mut databases = self.file.databases.iter().map(|database| &database.value);
        let general = &self.file.general.value;
        let auth_user = databases
            .find(|known| known.name == database)?
            .auth_user
            .as_ref()
            .or(general.auth_user.as_ref())?;
        let known = self.users.find(user, database);
        let has_password =
            |user: &super::User| user.origin == Origin::Files && !user.credentials.is_empty();
        let applies = user != auth_user
            && !known.is_some_and(has_password)
            && self.pools_of(auth_user, database).next().is_some();
        applies.then_some(Lookup {
            auth_user,
            query: &self.clients.auth_query,
        })
    }

    /// Does that configuration look users up in the same way?
    pub fn looks_up_as(&self, other: &Self) -> bool {
        fn ways(config: &Config) -> impl Iterator<Item = (&str, Option<&String>)> {
            let databases = config.file.databases.iter();
            databases.map(|database| (&*database.value.name, database.value.auth_user.as_ref()))
        }
        self.clients.auth_query == other.clients.auth_query
            && self.file.general.value.auth_user == other.file.general.value.auth_user
            && ways(self).eq(ways(other))
    }

    /// A server has vouched for somebody: must that still become known before servers can be logged in to?
    pub fn must_be_introduced(&self, guest: &Guest) -> bool {
        let (user, database) = (&guest.user, &guest.database);
        match self.users.find(user, database).map(|user| &user.origin) {
            None => true,
            Some(Origin::Guest(known)) => **known != *guest,
            Some(Origin::Files) => self
                .pools_of(user, database)
                .any(|pool| pool.login.passwords.is_empty()),
        }
    }

    /// Where to ask whether this is the user's password, and as whom to log in there: the servers of one shard, the
    /// primary first. They are logged in to just as the pool would be, or else, where the pool has a password of its
    /// own, as the user.
    pub fn vouchers(&self, user: &str, database: &str, password: &Secret) -> Vec<PoolConfig> {
        let guest = Guest {
            user: user.to_owned(),
            database: database.to_owned(),
            secret: GuestSecret::Password(password.clone()),
            voucher: Voucher::Login { settled: false },
        };
        let mut pools = self.pools_for(&guest);
        pools.sort_by_key(|pool| pool.role != Role::Primary);
        let shard = pools.first().map(|pool| pool.shard);
        pools.retain(|pool| Some(pool.shard) == shard);
        for pool in &mut pools {
            if pool.login.passwords != [password.clone()] {
                pool.login = ServerLogin {
                    user: user.to_owned(),
                    passwords: vec![password.clone()],
                    keys: None,
                    iam_region: None,
                };
            }
        }
        pools
    }

    /// This configuration with guests. Those of databases that it does not have are passed over.
    pub fn with_guests<'a>(mut self, guests: impl IntoIterator<Item = &'a Guest>) -> Self {
        for guest in guests {
            let pools = self.pools_for(guest);
            if pools.is_empty() {
                continue;
            }
            let entry = self.entry_for(guest);
            let mut known = user(&entry.value, &guest.database, &self.file.general.value);
            known.origin = Origin::Guest(Box::new(guest.clone()));
            self.users.replace(known);
            self.pools
                .retain(|pool| pool.user != guest.user || pool.database != guest.database);
            self.pools.extend(pools);
        }
        sort(&mut self.pools);
        self
    }

    /// May this guest, who was known under another configuration, still be one? Not where the files by now say how to
    /// log in to servers.
    pub fn keeps(&self, guest: &Guest) -> bool {
        let vouching = match guest.voucher {
            Voucher::Login { .. } => self.clients.passthrough.is_for(true),
            Voucher::Query => self.lookup(&guest.user, &guest.database).is_some(),
        };
        let wanted = |user: &super::User| {
            let credentials = &user.credentials;
            let mut pools = self.pools_of(&guest.user, &guest.database);
            credentials.is_empty()
                || credentials.password_hash.is_some()
                    && pools.any(|pool| pool.login.passwords.is_empty())
        };
        vouching
            && self.cluster(&guest.database).is_some()
            && self
                .users
                .find(&guest.user, &guest.database)
                .is_none_or(wanted)
    }

    /// What users.toml says of a guest, and the password. Where the file has a hash, that goes on to check who logs in.
    fn entry_for(&self, guest: &Guest) -> Entry<UserEntry> {
        let mut entries = self.users_file.users.iter();
        let known = entries.find(|entry| {
            entry.value.name == guest.user
                && entry
                    .value
                    .database_names(&self.file)
                    .contains(guest.database.as_str())
        });
        let file = &self.file.general.place.file;
        let mut entry = known.cloned().unwrap_or_else(|| Entry::absent(file));
        entry.value = UserEntry {
            name: guest.user.clone(),
            password: match &guest.secret {
                GuestSecret::Password(password) => Some(password.clone()),
                GuestSecret::Keys(_) => None,
            },
            passwords: Vec::new(),
            ..entry.value
        };
        entry
    }

    fn pools_for(&self, guest: &Guest) -> Vec<PoolConfig> {
        let entry = self.entry_for(guest);
        let general = &self.file.general.value;
        let mut nobody = Problems::default(); // what there is to warn of was said when the files were read
        let databases = self.file.databases.iter();
        let servers = databases.filter(|database| database.value.name == guest.database);
        let mut pools: Vec<_> = servers
            .map(|server| pool(general, server, &entry, &mut nobody))
            .collect();
        for pool in &mut pools {
            pool.limits.size_min = 0; // connections come and go with the clients
            if let GuestSecret::Keys(keys) = &guest.secret {
                // They are this user's on the server, and nobody else's.
                let usable = pool.login.passwords.is_empty() && pool.login.user == guest.user;
                pool.login.keys = Some(keys.clone()).filter(|_| usable);
            }
        }
        pools
    }
}

impl Guest {
    fn is_settled(&self) -> bool {
        self.voucher == Voucher::Login { settled: true }
    }
}

/// All guests.
#[derive(Clone, Debug, Default)]
pub struct Guests(BTreeMap<(String, String), Guest>);

impl Guests {
    /// A server has vouched for somebody. False when that is known already.
    ///
    /// Errors: the password may not take the place of the one that is known; there are too many.
    pub fn add(&mut self, guest: Guest, may_change: bool) -> Result<bool, Unwelcome> {
        let key = (guest.user.clone(), guest.database.clone());
        match self.0.get(&key) {
            Some(known) if *known == guest => return Ok(false),
            Some(known) if known.is_settled() && known.secret != guest.secret && !may_change => {
                return Err(Unwelcome::Differs)
            }
            Some(_) => {}
            None if self.0.len() >= GUESTS_MAX => return Err(Unwelcome::TooMany),
            None => {}
        }
        self.0.insert(key, guest);
        Ok(true)
    }

    /// Under a new configuration: who may not stay is gone, and the passwords of the others are not settled.
    pub fn review(&mut self, config: &Config, is_in_use: impl Fn(&Guest) -> bool) {
        self.0
            .retain(|_, guest| config.keeps(guest) && is_in_use(guest));
        for guest in self.0.values_mut() {
            if let Voucher::Login { settled } = &mut guest.voucher {
                *settled = false;
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Guest> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{resolve, Source, Sources};
    use super::*;

    const DATABASES: &str = "[[databases]]\nname = \"a\"\nhost = \"h\"\npool_size = 7\n[[databases]]\nname = \"b\"\nhost = \"h\"\nuser = \"app\"\npassword = \"secret\"\n";
    const USERS: &str = "[[users]]\nname = \"configured\"\ndatabase = \"a\"\npassword = \"p\"\n[[users]]\nname = \"open\"\ndatabase = \"a\"\npool_size = 3\n[[users]]\nname = \"proven\"\ndatabase = \"a\"\nidentity = \"proven\"\n[[users]]\nname = \"hashed\"\ndatabase = \"a\"\npassword_hash = \"SCRAM-SHA-256$x\"\n";

    fn config(passthrough: &str) -> Config {
        let general = format!("[general]\npassthrough_auth = {passthrough:?}\ntls_certificate = \"c\"\ntls_private_key = \"k\"\ntls_client_ca_certificate = \"a\"\n{DATABASES}");
        let source = |path, text| Source {
            path,
            text: Some(text),
        };
        resolve(&Sources {
            config: source("pgdog.toml", &general),
            users: source("users.toml", USERS),
            environment: &Default::default(),
            overrides: &Default::default(),
        })
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .config
    }

    fn guest(user: &str, database: &str, password: &str) -> Guest {
        Guest {
            user: user.to_owned(),
            database: database.to_owned(),
            secret: GuestSecret::Password(Secret::from(password)),
            voucher: Voucher::Login { settled: true },
        }
    }

    #[test]
    fn whom_the_server_may_be_asked_about() {
        use Passthrough::{Known, Off, Server};
        // Per value: a configured user, one without a password, nobody, over TLS; the same without.
        let cases = [
            ("disabled", [Off; 3], [Off; 3]),
            ("enabled", [Known, Server, Server], [Off; 3]),
            (
                "enabled_plain",
                [Known, Server, Server],
                [Known, Server, Server],
            ),
            ("enabled_allow_change", [Server; 3], [Off; 3]),
            ("enabled_plain_allow_change", [Server; 3], [Server; 3]),
        ];
        for (value, over_tls, plain) in cases {
            let config = config(value);
            for (encrypted, expected) in [(true, over_tls), (false, plain)] {
                let found = ["configured", "open", "nobody"]
                    .map(|user| config.passthrough(user, "a", encrypted));
                assert_eq!(found, expected, "{value}, encrypted: {encrypted}");
            }
            assert_eq!(config.passthrough("proven", "a", true), Off, "{value}");
            assert_ne!(config.passthrough("nobody", "c", true), Server, "{value}");
        }
    }

    #[test]
    fn a_guest_has_a_pool_like_anybody_else() {
        let config = config("enabled");
        let before = config.pools.len();
        let config = config.with_guests(&[guest("open", "a", "x"), guest("new", "a", "y")]);
        assert_eq!(config.pools.len(), before + 1);
        let sizes = ["open", "new"].map(|user| {
            let pool = config.pools_of(user, "a").next().expect("it has one");
            (
                pool.limits.size,
                pool.limits.size_min,
                pool.login.passwords.len(),
            )
        });
        assert_eq!(sizes, [(3, 0, 1), (7, 0, 1)]);
        assert_eq!(
            config.passthrough("new", "a", true),
            Passthrough::Known,
            "its password is settled"
        );
        assert!(!config.must_be_introduced(&guest("new", "a", "y")));
        assert!(config.must_be_introduced(&guest("new", "a", "z")));
        assert!(!config.must_be_introduced(&guest("configured", "a", "p")));
        // Its verifier proves the client, but no server can be logged in to with it.
        assert!(config.must_be_introduced(&guest("hashed", "a", "p")));
        let none = config.with_guests(&[guest("new", "nowhere", "y")]);
        assert_eq!(none.pools.len(), before + 1);
    }

    #[test]
    fn the_server_is_asked_about_the_user_not_about_the_pools_own_password() {
        let config = config("enabled");
        let login = |database| {
            let pool = config
                .vouchers("new", database, &Secret::from("y"))
                .remove(0);
            (pool.login.user, pool.login.passwords[0].expose().to_owned())
        };
        assert_eq!(login("a"), ("new".to_owned(), "y".to_owned()));
        assert_eq!(login("b"), ("new".to_owned(), "y".to_owned()));
        let guests = [guest("new", "b", "y")];
        let config = config.clone().with_guests(&guests);
        let pool = config.pools_of("new", "b").next().expect("it has one");
        assert_eq!(pool.login.user, "app");
        assert!(config
            .vouchers("new", "nowhere", &Secret::from("y"))
            .is_empty());
    }

    #[test]
    fn passwords_change_only_where_they_may() {
        let mut guests = Guests::default();
        assert_eq!(guests.add(guest("u", "a", "x"), false), Ok(true));
        assert_eq!(guests.add(guest("u", "a", "x"), false), Ok(false));
        assert_eq!(
            guests.add(guest("u", "a", "y"), false),
            Err(Unwelcome::Differs)
        );
        assert_eq!(guests.add(guest("u", "a", "y"), true), Ok(true));
        // After a reload the server's word is enough again.
        guests.review(&config("enabled"), |_| true);
        assert_eq!(guests.add(guest("u", "a", "x"), false), Ok(true));
        assert_eq!(
            guests.add(guest("u", "a", "y"), false),
            Err(Unwelcome::Differs)
        );
        guests.review(&config("enabled"), |_| false);
        assert_eq!(guests.iter().count(), 0);
        assert_eq!(guests.add(guest("u", "a", "x"), false), Ok(true));
        assert_eq!(guests.add(guest("configured", "a", "x"), false), Ok(true));
        guests.review(&config("enabled"), |_| true);
        assert_eq!(
            guests.iter().count(),
            1,
            "what the files say of a password goes first"
        );
        guests.review(&config("disabled"), |_| true);
        assert_eq!(guests.iter().count(), 0);
    }

    #[test]
    fn a_hash_goes_on_to_check_who_logs_in_and_the_guest_opens_servers() {
        let config = config("enabled");
        let pool = config.pools_of("hashed", "a").next().expect("it has one");
        assert_eq!(pool.limits.size_min, 0, "nobody has shown a password yet");
        let mut guests = Guests::default();
        assert_eq!(guests.add(guest("hashed", "a", "p"), false), Ok(true));
        guests.review(&config, |_| true);
        assert_eq!(guests.iter().count(), 1);
        let config = config.with_guests(guests.iter());
        let pool = config.pools_of("hashed", "a").next().expect("it has one");
        assert_eq!(pool.login.passwords, [Secret::from("p")]);
        let known = config.users.find("hashed", "a").expect("it is known");
        let hash = Some(Secret::from("SCRAM-SHA-256$x"));
        assert_eq!(known.credentials.password_hash, hash);
        let passthrough = config.passthrough("hashed", "a", true);
        assert_eq!(passthrough, Passthrough::Known, "after a reload, too");
    }

    #[test]
    fn guests_are_bounded() {
        let mut guests = Guests::default();
        for number in 0..GUESTS_MAX {
            assert_eq!(
                guests.add(guest(&number.to_string(), "a", "x"), false),
                Ok(true)
            );
        }
        assert_eq!(
            guests.add(guest("one more", "a", "x"), false),
            Err(Unwelcome::TooMany)
        );
        assert_eq!(guests.add(guest("7", "a", "x"), false), Ok(false));
    }

    #[test]
    fn who_is_looked_up() {
        let general = format!("[general]\nauth_user = \"configured\"\n{DATABASES}");
        let source = |path, text| Source {
            path,
            text: Some(text),
        };
        let users = USERS.replace("identity = \"proven\"", "");
        let resolved = resolve(&Sources {
            config: source("pgdog.toml", &general),
            users: source("users.toml", &users),
            environment: &Default::default(),
            overrides: &Default::default(),
        });
        let config = resolved.expect("a valid configuration").config;
        let found = |user, database| config.lookup(user, database).map(|found| found.auth_user);
        for user in ["open", "nobody"] {
            assert_eq!(found(user, "a"), Some("configured"));
        }
        assert_eq!(found("configured", "a"), None, "it has a password");
        assert_eq!(found("hashed", "a"), None);
        assert_eq!(found("nobody", "b"), None, "auth_user has no pool there");
        assert_eq!(found("nobody", "c"), None);

        let keys = |user: &str, database: &str, text| Guest {
            secret: GuestSecret::Keys(Secret::from(text)),
            voucher: Voucher::Query,
            ..guest(user, database, "")
        };
        let mut guests = Guests::default();
        for (text, news) in [("x", true), ("x", false), ("y", true)] {
            let added = guests.add(keys("nobody", "a", text), false);
            assert_eq!(added, Ok(news), "what the server says now is what counts");
        }
        let config = config.with_guests(guests.iter());
        let pool = config.pools_of("nobody", "a").next().expect("it has one");
        assert_eq!(pool.login.keys, Some(Secret::from("y")));
        assert!(!config.must_be_introduced(&keys("nobody", "a", "y")));
        assert_eq!(
            config.lookup("nobody", "a").map(|found| found.auth_user),
            Some("configured")
        );
        // Where the pool logs in as somebody else, the keys are of no use.
        let config = config.with_guests([&keys("nobody", "b", "y")]);
        let pool = config.pools_of("nobody", "b").next().expect("it has one");
        assert_eq!(
            (pool.login.user.as_str(), pool.login.keys.clone()),
            ("app", None)
        );
    }
}
