//! What the operator has ordered by PAUSE, MAINTENANCE, DISABLE and their opposites. Holds until it is taken back,
//! whatever is reloaded meanwhile; a pool that comes later is under the same orders.

/// Whom an order concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// Every pool.
    All,
    /// Pools of one database.
    Database(String),
    /// Pools of one user of one database.
    User {
        /// Login name of the clients.
        user: String,
        /// Database that they ask for.
        database: String,
    },
}

impl Of {
    /// Everything, or one database.
    pub fn database(database: Option<String>) -> Self {
        database.map_or(Self::All, Self::Database)
    }

    /// Does it concern the pools of this user and database?
    pub fn covers(&self, user: &str, database: &str) -> bool {
        match self {
            Self::All => true,
            Self::Database(name) => name == database,
            Self::User {
                user: whose,
                database: name,
            } => whose == user && name == database,
        }
    }

    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Database(name), Self::Database(database) | Self::User { database, .. }) => {
                name == database
            }
            (Self::User { .. }, Self::User { .. }) => self == other,
            (Self::Database(_) | Self::User { .. }, Self::All)
            | (Self::User { .. }, Self::Database(_)) => false,
        }
    }
}

/// All orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Server connections are closed, and clients wait.
    pub paused: Switches,
    /// No transaction begins.
    pub maintenance: Switches,
    /// New clients are refused.
    pub disabled: Switches,
}

/// Something that is on or off, for everybody or for some. The last word on somebody counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Each later one is narrower than an earlier one, or beside it; the first ones say "on". So there are no more of
    /// them than scopes that somebody has named.
    said: Vec<(Of, bool)>,
}

impl Switches {
    /// Turns it on or off for some.
    pub fn set(&mut self, scope: Of, on: bool) {
        self.said.retain(|(earlier, _)| !scope.includes(earlier));
        let before = self
            .said
            .iter()
            .rev()
            .find(|(wider, _)| wider.includes(&scope));
        if before.is_some_and(|(_, before)| *before) != on {
            self.said.push((scope, on));
        }
    }

    /// Is it on for this user and database?
    pub fn is_on(&self, user: &str, database: &str) -> bool {
        let mut said = self.said.iter().rev();
        said.find(|(scope, _)| scope.covers(user, database))
            .is_some_and(|(_, on)| *on)
    }

    /// Is it on for all users of this database, but those who are excepted by name?
    pub fn is_on_for(&self, database: &str) -> bool {
        let scope = Of::Database(database.to_owned());
        let mut said = self.said.iter().rev();
        said.find(|(wider, _)| wider.includes(&scope))
            .is_some_and(|(_, on)| *on)
    }

    /// Is it on for everybody who is not excepted by name?
    pub fn is_on_for_all(&self) -> bool {
        self.said.iter().any(|(scope, on)| *scope == Of::All && *on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(name: &str) -> Of {
        Of::Database(name.to_owned())
    }

    fn user(user: &str, name: &str) -> Of {
        Of::User {
            user: user.to_owned(),
            database: name.to_owned(),
        }
    }

    #[test]
    fn the_last_word_on_somebody_counts() {
        let steps = [
            (database("a"), true, "ua va"),
            (user("u", "a"), false, "va"),
            (Of::All, true, "ua va ub vb"),
            (database("a"), false, "ub vb"),
            (user("v", "a"), true, "va ub vb"),
            (database("b"), false, "va"),
            (database("a"), false, ""),
            (user("u", "b"), true, "ub"),
            (user("u", "b"), false, ""),
            (user("u", "b"), true, "ub"),
            (Of::All, false, ""),
        ];
        let mut switches = Switches::default();
        for (scope, on, expected) in steps {
            let step = format!("{scope:?} {on}");
            switches.set(scope, on);
            let all = ["ua", "va", "ub", "vb"];
            let on: Vec<_> = all
                .into_iter()
                .filter(|who| switches.is_on(&who[..1], &who[1..]))
                .collect();
            assert_eq!(on.join(" "), expected, "{step}");
        }
        assert_eq!(switches, Switches::default());
    }

    #[test]
    fn a_database_is_on_when_its_users_are() {
        let mut switches = Switches::default();
        switches.set(user("u", "a"), true);
        assert!(!switches.is_on_for("a"));
        switches.set(database("a"), true);
        assert!(switches.is_on_for("a") && !switches.is_on_for_all());
        switches.set(Of::All, true);
        switches.set(database("a"), false);
        assert!(switches.is_on_for_all() && switches.is_on_for("b") && !switches.is_on_for("a"));
    }

    #[test]
    fn what_is_said_again_and_again_takes_no_room() {
        let mut switches = Switches::default();
        for _ in 0..100 {
            for on in [true, false] {
                switches.set(Of::All, true);
                switches.set(database("a"), !on);
                switches.set(user("u", "a"), on);
            }
        }
        assert!(switches.said.len() <= 3, "{switches:?}");
    }
}
