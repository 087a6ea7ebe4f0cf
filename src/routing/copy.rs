//! COPY of a sharded table: the format of its data, and where the key is in them.

use crate::error::{Error, Fault};
use crate::protocol::copy::written::{Layout, Quoted};
use crate::protocol::copy::{CopyFormat, ForceNull};
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate::SqlState;
use crate::sharding::schema::Width;
use crate::sharding::{KeyColumn, ShardedColumn};
use crate::sql::encodings::{are_same, has_same_bytes};
use crate::sql::lexer::Dialect;
use crate::sql::statement::{Copy, CopyOption};

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
    /// How long texts are in it.
    pub key_width: Width,
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
    /// Rows of a query for the client, TO STDOUT. Servers run the query, and its rows are written here.
    Written(Box<Written>),
}

/// A query whose rows are written here, as data of COPY.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The query as in Parse, without parameters.
    definition: Box<[u8]>,
    /// How its rows are written.
    pub layout: Layout,
    /// The number of its last parameter, 0 if it has none.
    parameters: u32,
    /// Characters of the COPY in front of it.
    pub before: usize,
}

/// What follows the text in a Parse that declares no parameter: its end, and their number.
const NO_TYPES: &[u8] = b"\0\0\0";
/// Body of a Bind of no values to the unnamed portal, whose rows are to be text.
const TEXT_ROWS: &[u8] = b"\0\0\0\0\0\0\0\0";
/// The same for binary rows: one format, for all columns.
const BINARY_ROWS: &[u8] = b"\0\0\0\0\0\0\0\x01\0\x01";

impl Written {
    /// The rows of this query, which stands behind `head` and has so many parameters.
    pub fn new(head: &[u8], query: &[u8], parameters: u32, layout: Layout) -> Self {
        let characters = std::str::from_utf8(head).map(|head| head.chars().count());
        Self {
            definition: [query, NO_TYPES].concat().into(),
            layout,
            parameters,
            before: characters.unwrap_or(head.len()),
        }
    }

    /// Errors: it has a parameter, which a COPY cannot give it a value for. Its servers would ask for one.
    pub fn check(&self) -> Result<(), Error> {
        if self.parameters == 0 {
            return Ok(());
        }
        let text = format!("there is no parameter ${}", self.parameters);
        let code = SqlState::UNDEFINED_PARAMETER;
        Err(Error::error(Fault::Client, code, text))
    }

    /// The query.
    pub fn query(&self) -> &[u8] {
        let end = self.definition.len().saturating_sub(NO_TYPES.len());
        self.definition.get(..end).unwrap_or_default()
    }

    /// What follows the name in its Parse.
    pub fn definition(&self) -> &[u8] {
        &self.definition
    }

    /// Asks for its rows in the format of the data.
    pub fn bind(&self) -> Bind<'static> {
        let body = match self.layout.format {
            CopyFormat::Text { .. } | CopyFormat::Csv { .. } => TEXT_ROWS,
            CopyFormat::Binary => BINARY_ROWS,
        };
        Bind::parse(body).expect("a Bind without names and values")
    }
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
/// The first version that has names of columns in the text format.
const TEXT_HEADER: u32 = 150_000;
/// Delimiters that the text format could not tell from escapes, or from its end.
const NO_TEXT_DELIMITER: &[u8] = b"\\.abcdefghijklmnopqrstuvwxyz0123456789";

/// The format of the data of a COPY, in either direction.
///
/// Errors: 0A000 for what cannot be cut into rows: an option that is not known here, a delimiter of several bytes, an
/// encoding in which ASCII bytes are parts of other characters. Much of that the server would refuse, too.
pub fn copy_format(copy: &Copy, context: CopyContext<'_>) -> Result<CopyFormat, Error> {
    let mut options = Options::default();
    for (name, given) in &copy.options {
        match (&**name, given.text()) {
            ("format", Some(format)) => options.format = format,
            ("delimiter", Some(text)) => options.delimiter = Some(one_byte(name, text)?),
            ("quote", Some(text)) => options.quote = Some(one_byte(name, text)?),
            ("escape", Some(text)) => options.escape = Some(one_byte(name, text)?),
            ("null", Some(text)) => options.null = Some(text),
            ("encoding", Some(encoding)) => options.encoding = Some(encoding),
            ("header", _) => options.header = header(given)?,
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

/// How the rows of a query are written that servers do not write themselves: in this format, that of the same COPY.
///
/// Errors: 0A000 for whatever a server might refuse, or do otherwise.
pub fn copy_layout(
    copy: &Copy,
    format: CopyFormat,
    context: CopyContext<'_>,
) -> Result<Layout, Error> {
    let mut quoted = Quoted::Needed;
    for (index, (name, given)) in copy.options.iter().enumerate() {
        if copy
            .options
            .iter()
            .take(index)
            .any(|(other, _)| other == name)
        {
            return Err(refused(format!("option {name} given twice")));
        }
        let value = given.text();
        match (&**name, &format) {
            ("format", _) | ("delimiter" | "null", CopyFormat::Text { .. }) => {}
            ("delimiter" | "null" | "quote" | "escape", CopyFormat::Csv { .. }) => {}
            ("encoding", _) => {
                let encoding = value.unwrap_or_default();
                if !are_same(encoding.as_bytes(), context.client_encoding.as_bytes()) {
                    let what = format!("encoding {encoding}, which is not client_encoding");
                    return Err(refused(what));
                }
            }
            ("header", CopyFormat::Text { header: true, .. })
                if context.server_version < TEXT_HEADER =>
            {
                return Err(refused("header of text".to_owned()));
            }
            ("header", CopyFormat::Text { .. } | CopyFormat::Csv { .. }) => {
                if value.is_some_and(|value| value.eq_ignore_ascii_case("match")) {
                    return Err(refused("header match of COPY TO".to_owned()));
                }
            }
            ("force_quote", CopyFormat::Csv { .. }) => {
                quoted = match given {
                    CopyOption::Every => Quoted::All,
                    CopyOption::List(names) if !repeats(names) => Quoted::Columns(names.clone()),
                    CopyOption::List(_) => {
                        return Err(refused("force_quote of a column twice".to_owned()))
                    }
                    _ => return Err(refused("force_quote without columns".to_owned())),
                };
            }
            (name, _) => return Err(refused(format!("option {name} here"))),
        }
    }
    match tells_apart(&format) {
        true => Ok(Layout { format, quoted }),
        false => Err(refused(
            "delimiter, null, quote or escape that rows cannot be read with".to_owned(),
        )),
    }
}

fn repeats(names: &[Box<str>]) -> bool {
    let mut pairs = names.iter().enumerate();
    pairs.any(|(at, name)| names.iter().take(at).any(|other| other == name))
}

/// Does a server take these for delimiter, NULL and quote?
fn tells_apart(format: &CopyFormat) -> bool {
    let ends_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
    match format {
        CopyFormat::Text {
            delimiter, null, ..
        } => {
            let of_null = null.iter().any(|byte| ends_line(byte) || byte == delimiter);
            !(of_null || ends_line(delimiter) || NO_TEXT_DELIMITER.contains(delimiter))
        }
        CopyFormat::Csv {
            delimiter,
            null,
            quote,
            ..
        } => {
            let taken = |byte: &u8| ends_line(byte) || byte == delimiter || byte == quote;
            !(null.iter().any(taken) || ends_line(delimiter) || delimiter == quote)
        }
        CopyFormat::Binary => true,
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
        let given = copy.options.iter().filter(|(name, _)| **name == *option);
        given.map(|(_, given)| given).any(|given| match given {
            CopyOption::List(columns) => columns.iter().any(|column| is_key(column)),
            CopyOption::Every => true,
            // A server refuses it.
            CopyOption::Nothing | CopyOption::Word(_) | CopyOption::Number(_) => false,
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
        .and_then(|(_, given)| given.text())
        .unwrap_or(context.client_encoding);
    Ok(KeyColumn {
        position,
        force,
        type_oid: context.key_oid,
        width: context.key_width,
        encoded_as_stored: has_same_bytes(encoding.as_bytes(), context.server_encoding.as_bytes()),
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

/// `1` and `0` are numbers, and no strings.
fn header(given: &CopyOption) -> Result<bool, Error> {
    let text = given.text().unwrap_or_default().to_ascii_lowercase();
    match (given, &*text) {
        (CopyOption::Nothing, _)
        | (CopyOption::Word(_), "true" | "on" | "match")
        | (CopyOption::Number(_), "1") => Ok(true),
        (CopyOption::Word(_), "false" | "off") | (CopyOption::Number(_), "0") => Ok(false),
        (_, other) => Err(refused(format!("header {other}"))),
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
            key_width: Width::Any,
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

    #[test]
    fn how_rows_of_a_query_are_written() {
        let layout = |options: &str, context| {
            let statement = format!("COPY (SELECT 1) TO STDOUT {options}");
            let copy = copy(&statement);
            copy_layout(&copy, copy_format(&copy, context)?, context)
        };
        for (options, format, quoted) in [
            ("", text(b'\t', "\\N", false), Quoted::Needed),
            (
                "(DELIMITER '|', NULL '', HEADER, ENCODING 'utf-8')",
                text(b'|', "", true),
                Quoted::Needed,
            ),
            (
                "CSV HEADER FORCE QUOTE *",
                csv(b',', "", true, b'"', b'"'),
                Quoted::All,
            ),
            (
                "(FORMAT csv, HEADER 1, FORCE_QUOTE (\"*\"))",
                csv(b',', "", true, b'"', b'"'),
                Quoted::Columns(vec!["*".into()]),
            ),
            (
                "(FORMAT csv, FORCE_QUOTE (a, \"B\"), QUOTE '''', ESCAPE '\\', NULL 'none')",
                csv(b',', "none", false, b'\'', b'\\'),
                Quoted::Columns(vec!["a".into(), "B".into()]),
            ),
            ("(FORMAT binary)", CopyFormat::Binary, Quoted::Needed),
        ] {
            let expected = Layout { format, quoted };
            assert_eq!(layout(options, context(&[])), Ok(expected), "{options}");
        }
        // What a server refuses, or would do otherwise.
        for options in [
            "(FORMAT csv, FORMAT text)",
            "(DELIMITER 'a')",
            "(DELIMITER E'\\n')",
            "(DELIMITER '\\')",
            "(DELIMITER '|', NULL 'a|b')",
            "(NULL E'a\\r')",
            "(QUOTE '''')",
            "(FORCE_QUOTE *)",
            "(HEADER match)",
            "(ENCODING 'latin1')",
            "(FREEZE)",
            "(FORMAT csv, QUOTE ',')",
            "(FORMAT csv, DELIMITER '\"')",
            "(FORMAT csv, NULL '\"\"')",
            "(FORMAT csv, FORCE_QUOTE)",
            "(FORMAT csv, FORCE_QUOTE a)",
            "(FORMAT csv, FORCE_QUOTE (a, b, a))",
            "(FORMAT csv, HEADER '1')",
            "(FORMAT csv, HEADER '0')",
            "(FORMAT csv, HEADER 1.0)",
            "(FORMAT csv, HEADER (on))",
            "(FORMAT csv, NULL (a, b))",
            "(FORMAT csv, FORCE_NOT_NULL (a))",
            "(FORMAT csv, FORCE_NULL (a))",
            "(FORMAT binary, DELIMITER ',')",
            "(FORMAT binary, NULL '')",
            "(FORMAT binary, HEADER)",
        ] {
            let error = layout(options, context(&[])).unwrap_err();
            assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED, "{options}");
        }
        let older = CopyContext {
            server_version: 140_000,
            ..context(&[])
        };
        assert!(layout("(HEADER)", older).is_err());
        assert!(layout("(FORMAT csv, HEADER)", older).is_ok());
    }

    #[test]
    fn a_query_asks_for_rows_in_the_format_of_the_data() {
        for (format, formats) in [(CopyFormat::Binary, &[1][..]), (text(b'|', "", false), &[])] {
            let layout = Layout {
                format,
                quoted: Quoted::Needed,
            };
            let written = Written::new("/* für */ COPY (".as_bytes(), b"SELECT 1", 0, layout);
            assert_eq!(written.before, 16);
            assert_eq!(written.query(), b"SELECT 1");
            let arguments = written.bind().arguments().unwrap();
            assert!(arguments.is_empty());
            let found: Vec<_> = arguments.result_formats.iter().collect();
            assert_eq!(found, formats);
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
                "COPY t FROM STDIN (FORMAT csv, FORCE_NOT_NULL (\"*\"))",
                2,
                ForceNull::Neither,
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
