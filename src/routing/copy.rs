//! COPY of a sharded table: the format of its data, and where the key is in them.

use crate::error::{Error, Fault};
use crate::protocol::copy::{CopyFormat, ForceNull};
use crate::protocol::sqlstate::SqlState;
use crate::sharding::{KeyColumn, ShardedColumn};
use crate::sql::lexer::Dialect;
use crate::sql::statement::Copy;

/// What is known of the session and of the table.
#[derive(Clone, Copy, Debug)]
pub struct CopyContext<'a> {
    /// `client_encoding`.
    pub client_encoding: &'a str,
    /// `server_encoding`.
    pub server_encoding: &'a str,
    /// `server_version_num` of the shards: 150004.
    pub server_version: u32,
    /// The table's columns in order, without generated ones, if they are known.
    pub columns: Option<&'a [Box<str>]>,
    /// Type of the key's column, 0 if it is not known.
    pub key_oid: u32,
}

/// What a COPY that servers run moves.
#[derive(Clone, Debug, PartialEq)]
pub enum Copying {
    /// Rows of the client, FROM STDIN.
    In(Rows),
    /// Rows for the client, TO STDOUT.
    Out {
        /// Every server sends a line with the names of columns.
        names: bool,
    },
}

/// Who gets which of the client's rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Each server all of them.
    All,
    /// Each row goes to the shard of its key.
    Split(Box<Split>),
}

/// What is needed to spread rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// How the data are written.
    pub format: CopyFormat,
    /// Where the key is.
    pub key: KeyColumn,
    /// What it says.
    pub column: ShardedColumn,
}

/// The first version to which `\.` in CSV is data.
const NO_CSV_MARKER: u32 = 180_000;

/// The format of the data of a COPY, in either direction.
///
/// Errors: 0A000 for what cannot be cut into rows: an option that is not known here, a delimiter of several bytes, an
/// encoding in which ASCII bytes are parts of other characters. Much of that the server would refuse, too.
pub fn copy_format(copy: &Copy, context: CopyContext<'_>) -> Result<CopyFormat, Error> {
    let mut options = Options::default();
    for (name, values) in &copy.options {
        let value = values.first().map(|value| &**value);
        match (&**name, value) {
            ("format", Some(format)) => options.format = format,
            ("delimiter", Some(text)) => options.delimiter = Some(one_byte(name, text)?),
            ("quote", Some(text)) => options.quote = Some(one_byte(name, text)?),
            ("escape", Some(text)) => options.escape = Some(one_byte(name, text)?),
            ("null", Some(text)) => options.null = Some(text),
            ("encoding", Some(encoding)) => options.encoding = Some(encoding),
            ("header", value) => options.header = header(value)?,
            // Of no consequence for where rows end.
            ("freeze" | "force_quote" | "force_null" | "force_not_null" | "log_verbosity", _) => {}
            (name, _) => return Err(refused(format!("option {name}"))),
        }
    }
    let encoding = options.encoding.unwrap_or(context.client_encoding);
    if options.format != "binary" && Dialect::of(b"on", encoding.as_bytes()).overlapping {
        return Err(refused(format!("encoding {encoding}")));
    }
    let bytes = |text: Option<&str>, otherwise: &str| text.unwrap_or(otherwise).as_bytes().to_vec();
    let quote = options.quote.unwrap_or(b'"');
    match options.format {
        "text" => Ok(CopyFormat::Text {
            delimiter: options.delimiter.unwrap_or(b'\t'),
            null: bytes(options.null, "\\N"),
            header: options.header,
        }),
        "csv" => Ok(CopyFormat::Csv {
            delimiter: options.delimiter.unwrap_or(b','),
            null: bytes(options.null, ""),
            header: options.header,
            quote,
            escape: options.escape.unwrap_or(quote),
            end_marker: context.server_version < NO_CSV_MARKER,
        }),
        "binary" => Ok(CopyFormat::Binary),
        other => Err(refused(format!("format {other}"))),
    }
}

/// Where the key is in the rows of a COPY FROM.
///
/// Errors: 22P04 if it is not among the columns, 0A000 if that is not known.
pub fn copy_key(
    copy: &Copy,
    context: CopyContext<'_>,
    key: &ShardedColumn,
) -> Result<KeyColumn, Error> {
    let columns = match (&copy.columns[..], context.columns) {
        ([], Some(columns)) => columns,
        ([], None) => {
            return Err(refused(
                "no list of columns, nor is the table known".to_owned(),
            ))
        }
        (columns, _) => columns,
    };
    let is_key = |column: &str| column == key.column;
    let position = columns
        .iter()
        .position(|column| is_key(column))
        .ok_or_else(|| {
            Error::error(
                Fault::Client,
                SqlState::BAD_COPY_FILE_FORMAT,
                format!("bad COPY row 1: sharding key \"{}\" is missing", key.column),
            )
        })?;
    let names = |option: &str| {
        copy.options.iter().any(|(name, columns)| {
            let every = columns.is_empty() || columns.iter().any(|column| &**column == "*");
            **name == *option && (every || columns.iter().any(|column| is_key(column)))
        })
    };
    let force = match (names("force_not_null"), names("force_null")) {
        (true, true) => return Err(refused("force_null with force_not_null".to_owned())),
        (true, false) => ForceNull::NotNull,
        (false, true) => ForceNull::Null,
        (false, false) => ForceNull::Neither,
    };
    let given = copy.options.iter().find(|(name, _)| &**name == "encoding");
    let encoding = given
        .and_then(|(_, values)| values.first())
        .map_or(context.client_encoding, |encoding| encoding);
    Ok(KeyColumn {
        position,
        force,
        type_oid: context.key_oid,
        encoded_as_stored: encoding_name(encoding) == encoding_name(context.server_encoding),
    })
}

struct Options<'a> {
    format: &'a str,
    delimiter: Option<u8>,
    quote: Option<u8>,
    escape: Option<u8>,
    null: Option<&'a str>,
    encoding: Option<&'a str>,
    header: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            format: "text",
            delimiter: None,
            quote: None,
            escape: None,
            null: None,
            encoding: None,
            header: false,
        }
    }
}

fn refused(what: String) -> Error {
    Error::error(
        Fault::Client,
        SqlState::FEATURE_NOT_SUPPORTED,
        "this COPY format is not supported across shards",
    )
    .detail(what)
}

fn one_byte(name: &str, text: &str) -> Result<u8, Error> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(refused(format!("{name} of other than one byte"))),
    }
}

fn header(value: Option<&str>) -> Result<bool, Error> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "on" | "1" | "match") => Ok(true),
        Some("false" | "off" | "0") => Ok(false),
        Some(other) => Err(refused(format!("header {other}"))),
    }
}

/// A name of an encoding without what PostgreSQL leaves out of account.
fn encoding_name(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name = letters.collect::<String>().to_ascii_lowercase();
    match name.as_str() {
        "unicode" => "utf8".to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharding::hash::Hasher;
    use crate::sharding::{Function, KeyType};
    use crate::sql::cache::Cache;
    use crate::sql::statement::Kind;

    fn copy(text: &str) -> Copy {
        let mut cache = Cache::new(0, 0);
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_ref();
        match &statements.expect("it parses")[..] {
            [statement] => match &statement.kind {
                Kind::Copy(copy) => (**copy).clone(),
                kind => panic!("{text}: {kind:?}"),
            },
            several => panic!("{text}: {several:?}"),
        }
    }

    fn context(columns: &[Box<str>]) -> CopyContext<'_> {
        CopyContext {
            client_encoding: "UTF8",
            server_encoding: "UTF8",
            server_version: 150_004,
            columns: Some(columns),
            key_oid: 20,
        }
    }

    fn text(delimiter: u8, null: &str, header: bool) -> CopyFormat {
        CopyFormat::Text {
            delimiter,
            null: null.into(),
            header,
        }
    }

    fn csv(delimiter: u8, null: &str, header: bool, quote: u8, escape: u8) -> CopyFormat {
        CopyFormat::Csv {
            delimiter,
            null: null.into(),
            header,
            quote,
            escape,
            end_marker: true,
        }
    }

    #[test]
    fn formats_in_both_syntaxes() {
        for (statement, expected) in [
            ("COPY t FROM STDIN", text(b'\t', "\\N", false)),
            (
                "COPY t FROM STDIN (DELIMITER '|', NULL '', HEADER)",
                text(b'|', "", true),
            ),
            (
                "COPY t FROM STDIN WITH DELIMITER AS '|' NULL AS 'x'",
                text(b'|', "x", false),
            ),
            (
                "COPY t TO STDOUT (FORMAT csv, HEADER match)",
                csv(b',', "", true, b'"', b'"'),
            ),
            (
                "COPY t FROM STDIN CSV HEADER QUOTE '''' ",
                csv(b',', "", true, b'\'', b'\''),
            ),
            (
                "COPY t FROM STDIN (FORMAT csv, HEADER off, ESCAPE E'\\\\')",
                csv(b',', "", false, b'"', b'\\'),
            ),
            ("COPY t FROM STDIN (FORMAT 'binary')", CopyFormat::Binary),
            ("COPY BINARY t FROM STDIN", CopyFormat::Binary),
            (
                "COPY t FROM STDIN (FREEZE, FORCE_NULL (a), FORMAT csv)",
                csv(b',', "", false, b'"', b'"'),
            ),
        ] {
            let found = copy_format(&copy(statement), context(&[]));
            assert_eq!(found, Ok(expected), "{statement}");
        }
        let newer = CopyContext {
            server_version: 180_001,
            ..context(&[])
        };
        let found = copy_format(&copy("COPY t FROM STDIN CSV"), newer).unwrap();
        assert!(matches!(
            found,
            CopyFormat::Csv {
                end_marker: false,
                ..
            }
        ));
    }

    #[test]
    fn what_cannot_be_cut_into_rows() {
        for statement in [
            "COPY t FROM STDIN (DEFAULT 'x')",
            "COPY t FROM STDIN (ON_ERROR ignore)",
            "COPY t FROM STDIN (DELIMITER '||')",
            "COPY t FROM STDIN (FORMAT parquet)",
            "COPY t FROM STDIN (ENCODING 'SJIS')",
            "COPY t FROM STDIN (HEADER maybe)",
        ] {
            let error = copy_format(&copy(statement), context(&[])).unwrap_err();
            assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED, "{statement}");
            assert_eq!(
                error.message,
                "this COPY format is not supported across shards"
            );
        }
    }

    fn key() -> ShardedColumn {
        ShardedColumn {
            schema: None,
            table: None,
            column: "id".to_owned(),
            primary: false,
            key_type: KeyType::Bigint,
            function: Function::Hash(Hasher::Postgres),
            lookup: None,
            shards: 3,
        }
    }

    #[test]
    fn where_the_key_is() {
        let columns: [Box<str>; 3] = ["a".into(), "b".into(), "id".into()];
        for (statement, position, force) in [
            ("COPY t FROM STDIN", 2, ForceNull::Neither),
            ("COPY t (id, a) FROM STDIN", 0, ForceNull::Neither),
            (
                "COPY t FROM STDIN (FORMAT csv, FORCE_NULL (a, id))",
                2,
                ForceNull::Null,
            ),
            (
                "COPY t FROM STDIN (FORMAT csv, FORCE_NOT_NULL (a))",
                2,
                ForceNull::Neither,
            ),
            (
                "COPY t FROM STDIN (FORMAT csv, FORCE_NOT_NULL *)",
                2,
                ForceNull::NotNull,
            ),
            (
                "COPY t FROM STDIN CSV FORCE NOT NULL id",
                2,
                ForceNull::NotNull,
            ),
        ] {
            let found = copy_key(&copy(statement), context(&columns), &key()).unwrap();
            assert_eq!(
                (found.position, found.force),
                (position, force),
                "{statement}"
            );
            assert!(found.encoded_as_stored);
        }
        let missing = copy_key(&copy("COPY t (a) FROM STDIN"), context(&columns), &key());
        assert_eq!(missing.unwrap_err().code, SqlState::BAD_COPY_FILE_FORMAT);
        let unknown = CopyContext {
            columns: None,
            ..context(&columns)
        };
        let error = copy_key(&copy("COPY t FROM STDIN"), unknown, &key()).unwrap_err();
        assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED);
    }

    #[test]
    fn encodings() {
        let columns: [Box<str>; 1] = ["id".into()];
        for (statement, client, stored) in [
            ("COPY t FROM STDIN", "utf-8", true),
            ("COPY t FROM STDIN", "LATIN1", false),
            ("COPY t FROM STDIN (ENCODING 'Unicode')", "LATIN1", true),
            ("COPY t FROM STDIN (ENCODING 'latin1')", "UTF8", false),
        ] {
            let context = CopyContext {
                client_encoding: client,
                ..context(&columns)
            };
            let found = copy_key(&copy(statement), context, &key()).unwrap();
            assert_eq!(found.encoded_as_stored, stored, "{statement} {client}");
        }
    }
}
