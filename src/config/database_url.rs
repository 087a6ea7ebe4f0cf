//! `postgres://user:password@host:port/name?key=value`: a database and a user in one text.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>

/// Parts of such a URL, decoded. `Debug` is missing on purpose: it holds passwords.
#[derive(Default, PartialEq)]
pub(super) struct DatabaseUrl {
    pub(super) user: String,
    pub(super) password: Option<String>,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: Option<String>,
    pub(super) name: String,
    pub(super) query: Vec<(String, String)>,
}

impl DatabaseUrl {
    /// Reads a URL. Reasons never contain a part of it.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("a database URL begins with postgres://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = rest
            .split_once('/')
            .ok_or("the name of the database is missing")?;
        let (user_info, location) = authority
            .rsplit_once('@')
            .ok_or("the name of the user is missing")?;
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (user_info, None),
        };
        let (host, port) = match location
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, "")) => (host, None),
            Some((host, port)) => (
                host,
                Some(
                    port.strip_prefix(':')
                        .ok_or("a colon belongs between host and port")?,
                ),
            ),
            None => match location.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (location, None),
            },
        };
        let url = Self {
            user: decode(user)?,
            password,
            host: decode(host)?,
            port: port.map(str::to_owned),
            name: decode(name)?,
            query: pairs(query)?,
        };
        if url.user.is_empty() {
            Err("the name of the user is missing")
        } else if url.host.is_empty() {
            Err("the host is missing")
        } else if url.name.is_empty() {
            Err("the name of the database is missing")
        } else {
            Ok(url)
        }
    }
}

/// `key=value&key=value`, decoded.
pub(super) fn pairs(query: &str) -> Result<Vec<(String, String)>, &'static str> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or("a key has no value")?;
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

/// Percent-decoding.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let value = digit()
            .zip(digit())
            .and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(value.ok_or("two hexadecimal digits belong after %")?);
    }
    String::from_utf8(decoded).map_err(|_| "not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts in one line, or the reason.
    fn parse(url: &str) -> Result<String, &'static str> {
        DatabaseUrl::parse(url).map(|url| {
            let query: Vec<String> = url
                .query
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let (password, port) = (
                url.password.as_deref().unwrap_or("-"),
                url.port.as_deref().unwrap_or("-"),
            );
            format!(
                "{} {password} {} {port} {} {}",
                url.user,
                url.host,
                url.name,
                query.join(",")
            )
        })
    }

    #[test]
    fn parts() {
        for (url, expected) in [
            ("postgres://u:p@h:1/d", Ok("u p h 1 d ")),
            ("postgresql://u@h/d", Ok("u - h - d ")),
            (
                "postgres://u:p%40%3A%2F@h/d?role=replica&shard=1",
                Ok("u p@:/ h - d role=replica,shard=1"),
            ),
            ("postgres://u:a@b:c@h:1/d", Ok("u a@b:c h 1 d ")),
            ("postgres://u@[::1]:5433/d", Ok("u - ::1 5433 d ")),
            ("postgres://u@[::1]/d", Ok("u - ::1 - d ")),
            ("postgres://u@%2Fvar%2Frun/d", Ok("u - /var/run - d ")),
            (
                "mysql://u@h/d",
                Err("a database URL begins with postgres://"),
            ),
            ("postgres://h/d", Err("the name of the user is missing")),
            ("postgres://@h/d", Err("the name of the user is missing")),
            ("postgres://u@h", Err("the name of the database is missing")),
            (
                "postgres://u@h/",
                Err("the name of the database is missing"),
            ),
            ("postgres://u@/d", Err("the host is missing")),
            ("postgres://u@h/d?x", Err("a key has no value")),
            (
                "postgres://u%4@h/d",
                Err("two hexadecimal digits belong after %"),
            ),
            (
                "postgres://u%zz@h/d",
                Err("two hexadecimal digits belong after %"),
            ),
            ("postgres://u%ff@h/d", Err("not UTF-8")),
            (
                "postgres://u@[::1]x/d",
                Err("a colon belongs between host and port"),
            ),
            ("", Err("a database URL begins with postgres://")),
        ] {
            assert_eq!(parse(url), expected.map(str::to_owned), "{url}");
        }
    }
}
