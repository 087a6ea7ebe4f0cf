//! `pgdog route`: where statements would go, by the configuration alone. No server is asked, so tables, columns and
//! functions are known only as far as statements name them.

use std::path::Path;
use std::process::ExitCode;

use crate::config::cli::Cli;
use crate::config::Config;
use crate::routing::preview::{preview, role};
use crate::routing::role::Catalogue;
use crate::routing::route::{Database, NoSchema};
use crate::routing::values::{Parameter, Values};
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;
use crate::sql::listed::{listed, Parameters};
use crate::sql::statements::Statements;

use super::{fail, load, read, Found};

/// Prints a line for each statement of a file and of the command line, and two below it.
pub(super) fn run(
    cli: &Cli,
    (user, database): (&str, &str),
    file: Option<&Path>,
    queries: &[String],
) -> ExitCode {
    let text = match file.map(read).transpose() {
        Ok(text) => text.flatten(),
        Err(reason) => return fail(reason),
    };
    if let (Some(file), None) = (file, &text) {
        return fail(format!("{}: no such file", file.display()));
    }
    let told = load(cli, &Found::default()).and_then(|loaded| {
        let texts = text.iter().chain(queries);
        let told = texts.map(|text| tell(text, user, database, &loaded.config));
        told.collect::<Result<String, String>>()
    });
    match told {
        Ok(told) => {
            #[expect(clippy::print_stdout, reason = "the answer of the subcommand")]
            {
                print!("{told}");
            }
            ExitCode::SUCCESS
        }
        Err(reason) => fail(reason),
    }
}

/// Where the statements of a text go. Errors: there is no such database, or not for this user.
fn tell(text: &str, user: &str, database: &str, config: &Config) -> Result<String, String> {
    let cluster = config
        .cluster(database)
        .ok_or_else(|| format!("database \"{database}\" is not configured"))?;
    if config.pools_of(user, database).next().is_none() {
        return Err(format!("user \"{user}\" has no database \"{database}\""));
    }
    let functions = Catalogue::default();
    let routing = &config.routing;
    let database = Database {
        tables: &cluster.sharding,
        schema: &NoSchema,
        search_path: None,
        functions: &functions,
        system_catalogs: routing.system_catalogs,
        sticky: routing.omnisharded_sticky,
        lookups: &|_, _| None,
    };
    let dialect = Dialect::default();
    let mut cache = Cache::new(0, 0);
    let mut told = String::new();
    for part in Statements::new(text.as_bytes(), dialect) {
        let shown = String::from_utf8_lossy(part.text);
        let shown: Vec<&str> = shown.split_whitespace().collect();
        told += &format!("{}\n", shown.join(" "));
        let listed = listed(part.text, dialect, Parameters::default());
        let text = listed.as_deref().unwrap_or(part.text);
        let analysed = cache.analyse(text, dialect);
        let statement = match analysed.analysis.statements.as_deref() {
            Ok([statement]) => statement,
            Ok(_) => continue,
            Err(reason) => {
                told += &format!("    refused: {reason}\n");
                continue;
            }
        };
        let parameters = vec![Parameter::Unknown; statement.parameters as usize];
        let values = Values {
            text,
            literals: analysed.literals,
            backslashes: dialect.backslashes,
            encoded_as_stored: true,
            parameters: &parameters,
        };
        let context = (dialect, &analysed.hints);
        let found = preview(statement, text, context, &values, &database);
        let role = role(statement, &analysed.hints, &database);
        told += &format!("    server: {role}\n    shards: {}\n", found.place);
        if !parameters.is_empty() {
            told += "    the values of its parameters are not known here\n";
        }
    }
    Ok(told)
}
