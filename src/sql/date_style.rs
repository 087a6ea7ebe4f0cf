//! `DateStyle`: a style of dates, and an order of their fields. SET may say one of the two, and leaves the other as it was.

use super::set::Value;

/// What a value says of each; the words are PostgreSQL's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DateStyle {
    /// `ISO`, `SQL`, `Postgres` or `German`.
    pub style: Option<&'static str>,
    /// `YMD`, `DMY` or `MDY`.
    pub order: Option<&'static str>,
}

impl DateStyle {
    /// `None`: it has words that are neither, or `DEFAULT`.
    pub fn of(value: &Value) -> Option<Self> {
        let mut found = Self::default();
        for name in value.names() {
            found.read(&name)?;
        }
        found.filled()
    }

    /// The same of a text, as servers report it.
    pub fn of_text(text: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        found.read(text)?;
        found.filled()
    }

    fn read(&mut self, list: &[u8]) -> Option<()> {
        for word in list.split(|byte| *byte == b',') {
            let word = word.trim_ascii().to_ascii_lowercase();
            match &word[..] {
                b"iso" => self.style = Some("ISO"),
                b"sql" => self.style = Some("SQL"),
                b"german" => self.style = Some("German"),
                b"ymd" => self.order = Some("YMD"),
                b"dmy" => self.order = Some("DMY"),
                b"mdy" | b"us" => self.order = Some("MDY"),
                word if word.starts_with(b"postgres") => self.style = Some("Postgres"),
                word if word.starts_with(b"euro") => self.order = Some("DMY"),
                word if word.starts_with(b"noneuro") => self.order = Some("MDY"),
                _ => return None,
            }
        }
        Some(())
    }

    /// The German style is one of an order.
    fn filled(self) -> Option<Self> {
        let own = (self.style == Some("German")).then_some("DMY");
        Some(Self {
            order: self.order.or(own),
            ..self
        })
    }
}

/// What a value means where `before` was in force.
pub(super) fn completed(value: &Value, before: Option<&Value>) -> Value {
    let (Some(said), Some(before)) = (DateStyle::of(value), before.and_then(DateStyle::of)) else {
        return value.clone();
    };
    let both = (said.style.or(before.style), said.order.or(before.order));
    match both {
        (Some(style), Some(order)) if (said.style, said.order) != both => {
            Value::from_text(b"datestyle", format!("{style}, {order}").as_bytes())
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_it_was() {
        let words = |sql: &str| Value::Words(sql.as_bytes().into());
        for (before, value, expected) in [
            ("'German'", "dmy", "'German, DMY'"),
            ("'SQL, YMD'", "'iso'", "'ISO, YMD'"),
            ("german", "'ISO'", "'ISO, DMY'"),
            ("iso, mdy", "'European'", "'ISO, DMY'"),
            ("'Postgresql, US'", "sql", "'SQL, MDY'"),
            // Said in full, or not known.
            ("'SQL, YMD'", "iso, dmy", "iso, dmy"),
            ("'SQL, YMD'", "'German'", "'German'"),
            ("'SQL'", "'iso'", "'iso'"),
            ("'SQL, YMD'", "'default'", "'default'"),
            ("E'SQL\\x2c YMD'", "'iso'", "'iso'"),
        ] {
            let found = completed(&words(value), Some(&words(before)));
            assert_eq!(found, words(expected), "{before} {value}");
        }
        assert_eq!(completed(&words("'iso'"), None), words("'iso'"));
        assert_eq!(DateStyle::of_text(b"ISO, MDY").unwrap().style, Some("ISO"));
    }
}
