//! A file as its sections, with every error and its line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use super::problem::{Problem, Problems};
use super::section::{Initial, Section, Setting};
use super::value::{kind, Flaw, Input};

/// Where a section stands and which of its keys were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    line: Option<usize>,
    section: &'static str,
    keys: BTreeMap<&'static str, Origin>,
    /// Some of its values could not be read, so that conclusions from it may be wrong.
    pub(super) broken: bool,
}

/// Where one key was given.
#[derive(Clone, Debug)]
enum Origin {
    /// On this line of the file.
    Line(usize),
    /// By this variable or flag.
    Outside(Arc<str>),
}

/// A section with its place.
#[derive(Clone, Debug)]
pub(super) struct Entry<S> {
    pub(super) value: S,
    pub(super) place: Place,
}

impl<S: Section> Entry<S> {
    /// A section that no file holds: all defaults.
    pub(super) fn absent(file: &Arc<str>) -> Self {
        Self::new(S::default(), file, None)
    }

    pub(super) fn new(value: S, file: &Arc<str>, line: Option<usize>) -> Self {
        let place = Place {
            file: Arc::clone(file),
            line,
            section: S::NAME,
            keys: BTreeMap::new(),
            broken: false,
        };
        Self { value, place }
    }

    /// Was this key given, in the file or later by [`Entry::set_from`]?
    pub(super) fn given(&self, key: &str) -> bool {
        self.place.keys.contains_key(key)
    }

    /// A problem with one of its keys, or with the whole section for the empty key.
    pub(super) fn problem(&self, key: &str, reason: impl Into<String>) -> Problem {
        let place = &self.place;
        let (file, line) = match place.keys.get(key) {
            Some(Origin::Line(line)) => (&place.file, Some(*line)),
            Some(Origin::Outside(source)) => (source, None),
            None => (&place.file, place.line),
        };
        let separator = if key.is_empty() { "" } else { "." };
        Problem {
            file: Arc::clone(file),
            line,
            key: format!("{}{separator}{key}", place.section),
            reason: reason.into(),
        }
    }

    /// Sets one key from a variable, a flag or a URL. Errors: what is wrong with the word.
    pub(super) fn set_from(
        &mut self,
        source: &Arc<str>,
        setting: &'static Setting,
        word: &str,
    ) -> Result<(), Problem> {
        match self.value.set(setting.name, Input::Word(word)) {
            Ok(()) => {
                let origin = Origin::Outside(Arc::clone(source));
                self.place.keys.insert(setting.name, origin);
                Ok(())
            }
            Err(flaws) => {
                let reasons: Vec<String> = flaws.into_iter().map(|flaw| flaw.reason).collect();
                let problem = self.problem(setting.name, reasons.join("; "));
                Err(Problem {
                    file: Arc::clone(source),
                    line: None,
                    ..problem
                })
            }
        }
    }
}

/// A parsed file, of which sections are taken out one after the other.
pub(super) struct Document<'a> {
    file: Arc<str>,
    /// Offsets at which lines end.
    line_ends: Vec<usize>,
    table: DeTable<'a>,
    taken: BTreeSet<&'static str>,
    pub(super) problems: Problems,
}

impl<'a> Document<'a> {
    /// Parses the text. With a syntax error in it there are no sections, only that error.
    pub(super) fn parse(file: &Arc<str>, text: &'a str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: Arc::clone(file),
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            table: table.into_inner(),
            taken: BTreeSet::new(),
            problems: Problems::default(),
        };
        if let Some(first) = errors.first() {
            let at = first.span().map_or(0, |span| span.start);
            let problem = document.problem(
                Some(at),
                String::new(),
                format!("not TOML: {}", first.message()),
            );
            document.problems.errors.push(problem);
            document.problems.syntax_error = true;
            document.table = DeTable::new();
        }
        document
    }

    fn line(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }

    fn problem(&self, offset: Option<usize>, key: String, reason: String) -> Problem {
        Problem {
            file: Arc::clone(&self.file),
            line: offset.map(|offset| self.line(offset)),
            key,
            reason,
        }
    }

    /// `[name]`, or all defaults.
    pub(super) fn section<S: Section>(&mut self) -> Entry<S> {
        match self.optional() {
            Some(entry) => entry,
            None => Entry::absent(&self.file),
        }
    }

    /// `[name]`, if the file has it.
    pub(super) fn optional<S: Section>(&mut self) -> Option<Entry<S>> {
        self.taken.insert(S::NAME);
        let (key, value) = self.table.remove_entry(S::NAME)?;
        if value.get_ref().is_table() {
            return Some(self.entry(&value));
        }
        let reason = format!(
            "expected a section [{}], found {}",
            S::NAME,
            kind(value.get_ref())
        );
        let problem = self.problem(Some(key.span().start), S::NAME.to_owned(), reason);
        self.problems.errors.push(problem);
        None
    }

    /// All `[[name]]`, also under another name.
    pub(super) fn list<S: Section>(&mut self, alias: Option<&'static str>) -> Vec<Entry<S>> {
        let mut entries = Vec::new();
        for name in std::iter::once(S::NAME).chain(alias) {
            self.taken.insert(name);
            let Some((key, value)) = self.table.remove_entry(name) else {
                continue;
            };
            let tables = value
                .get_ref()
                .as_array()
                .filter(|list| list.iter().all(|item| item.get_ref().is_table()));
            if let Some(tables) = tables {
                entries.extend(tables.iter().map(|table| self.entry(table)));
            } else {
                let reason = format!(
                    "expected sections [[{name}]], found {}",
                    kind(value.get_ref())
                );
                let problem = self.problem(Some(key.span().start), name.to_owned(), reason);
                self.problems.errors.push(problem);
            }
        }
        entries
    }

    fn entry<S: Section>(&mut self, value: &Spanned<DeValue<'_>>) -> Entry<S> {
        let start = value.span().start;
        let mut entry = Entry::new(S::default(), &self.file, Some(self.line(start)));
        let empty = DeTable::new();
        let fields = Fields::read(value.get_ref().as_table().unwrap_or(&empty), start);
        entry.value = fields.value;
        entry.place.broken = !fields.flaws.is_empty();
        for (key, offset) in fields.given {
            let origin = Origin::Line(self.line(offset));
            entry.place.keys.insert(key, origin);
        }
        let problem = |flaw: Flaw| {
            self.problem(
                flaw.offset,
                format!("{}.{}", S::NAME, flaw.key),
                flaw.reason,
            )
        };
        let unknown: Vec<Problem> = fields.unknown.into_iter().map(problem).collect();
        let errors: Vec<Problem> = fields.flaws.into_iter().map(problem).collect();
        if S::TOLERANT {
            self.problems.warnings.extend(unknown);
        } else {
            self.problems.errors.extend(unknown);
        }
        self.problems.errors.extend(errors);
        entry
    }

    /// Sections that nobody took: `ignored` ones are warned about, others are errors.
    pub(super) fn finish(mut self, ignored: &[&str]) -> Problems {
        for (key, value) in std::mem::take(&mut self.table) {
            let name = key.get_ref().to_string();
            let start = Some(key.span().start);
            if ignored.contains(&name.as_str()) {
                let reason = "out of scope of this program, ignored".to_owned();
                let warning = self.problem(start, name, reason);
                self.problems.warnings.push(warning);
            } else {
                let what = if value.get_ref().is_table() || value.get_ref().is_array() {
                    "section"
                } else {
                    "key"
                };
                let reason = format!(
                    "unknown {what}{}",
                    suggestion(&name, self.taken.iter().copied())
                );
                let error = self.problem(start, name, reason);
                self.problems.errors.push(error);
            }
        }
        self.problems
    }
}

/// The fields of one table, with all that is wrong in it.
struct Fields<S> {
    value: S,
    given: Vec<(&'static str, usize)>,
    unknown: Vec<Flaw>,
    flaws: Vec<Flaw>,
}

impl<S: Section> Fields<S> {
    fn read(table: &DeTable<'_>, start: usize) -> Self {
        let mut fields = Self {
            value: S::default(),
            given: Vec::new(),
            unknown: Vec::new(),
            flaws: Vec::new(),
        };
        for (key, value) in table {
            let (name, offset) = (key.get_ref().as_ref(), key.span().start);
            let flaw = |reason: String| Flaw {
                offset: Some(offset),
                key: name.to_owned(),
                reason,
            };
            let known =
                |setting: &&Setting| setting.name == name || setting.aliases.contains(&name);
            let Some(setting) = S::SETTINGS.iter().find(known) else {
                let names = S::SETTINGS.iter().map(|setting| setting.name);
                fields
                    .unknown
                    .push(flaw(format!("unknown key{}", suggestion(name, names))));
                continue;
            };
            if fields.given.iter().any(|(given, _)| *given == setting.name) {
                fields.flaws.push(flaw(format!(
                    "given twice, as {} and by its other name",
                    name
                )));
                continue;
            }
            fields.given.push((setting.name, offset));
            if let Err(flaws) = fields.value.set(setting.name, Input::File(value)) {
                fields.flaws.extend(flaws.into_iter().map(|inner| Flaw {
                    key: if inner.key.is_empty() {
                        name.to_owned()
                    } else {
                        format!("{name}.{}", inner.key)
                    },
                    ..inner
                }));
            }
        }
        for setting in S::SETTINGS {
            let missing = !fields.given.iter().any(|(given, _)| *given == setting.name);
            if missing && matches!(setting.initial, Initial::Required(_)) {
                let (key, reason) = (setting.name.to_owned(), "required, but missing".to_owned());
                fields.flaws.push(Flaw {
                    offset: Some(start),
                    key,
                    reason,
                });
            }
        }
        fields
    }
}

/// Reads a table inside of a section, such as a mapping rule.
pub(super) fn read_nested<S: Section>(input: Input<'_>) -> Result<S, Vec<Flaw>> {
    let value = match input {
        Input::File(value) => value,
        Input::Word(_) => return Err(input.flaw("expected a table")),
    };
    let Some(table) = value.get_ref().as_table() else {
        return Err(input.flaw(format!("expected a table, found {}", kind(value.get_ref()))));
    };
    let mut fields = Fields::read(table, value.span().start);
    fields.flaws.append(&mut fields.unknown);
    if fields.flaws.is_empty() {
        Ok(fields.value)
    } else {
        Err(fields.flaws)
    }
}

/// Such a table as a literal.
pub(super) fn nested_literal<S: Section>(value: &S) -> String {
    let given = S::SETTINGS.iter().zip(value.literals());
    let pairs: Vec<String> = given
        .filter_map(|(setting, literal)| {
            literal.map(|literal| format!("{} = {literal}", setting.name))
        })
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// `, did you mean x?` when a known name is close.
fn suggestion<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    const DISTANCE_MAX: usize = 2;
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= DISTANCE_MAX && *distance < candidate.len())
        .map(|(_, candidate)| format!(", did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let edited = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            left = edited;
            *cell = edited;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::section::section;
    use super::*;

    section! {
        /// For the tests below.
        Sample = "sample";
        /// Required.
        name: String = required "x", Live, Now;
        /// Has a default and an alias.
        size | max_size: u16 = default "10", Live, Now;
        /// Has neither.
        extra: Option<bool> = unset "true", Live, Now;
    }

    fn read(text: &str) -> (Vec<Entry<Sample>>, Problems) {
        let mut document = Document::parse(&Arc::from("f.toml"), text);
        let entries = document.list(None);
        (entries, document.finish(&["elsewhere"]))
    }

    fn errors(text: &str) -> Vec<String> {
        read(text)
            .1
            .errors
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_error_with_its_line() {
        let text = "[[sample]]\nsize = 70000\nnmae = 1\n\n[[sample]]\nname = \"b\"\nsize = 1\nmax_size = 2\nextra = \"yes\"\n";
        let mut found = errors(text);
        found.sort();
        assert_eq!(
            found,
            [
                "f.toml:1: sample.name: required, but missing",
                "f.toml:2: sample.size: 70000 is too large, the largest value is 65535",
                "f.toml:3: sample.nmae: unknown key, did you mean `name`?",
                "f.toml:7: sample.size: given twice, as size and by its other name",
                "f.toml:9: sample.extra: expected true or false, found a string",
            ]
        );
    }

    #[test]
    fn values_defaults_aliases() {
        let (entries, problems) =
            read("[[sample]]\nname = \"a\"\nmax_size = 3\n\n[[sample]]\nname = \"b\"\n");
        assert!(problems.errors.is_empty(), "{problems:?}");
        let values: Vec<_> = entries
            .iter()
            .map(|entry| (entry.value.name.as_str(), entry.value.size))
            .collect();
        assert_eq!(values, [("a", 3), ("b", 10)]);
        assert!(entries[0].given("size") && !entries[1].given("size"));
        assert_eq!(
            entries[1].problem("name", "x").to_string(),
            "f.toml:6: sample.name: x"
        );
        assert_eq!(
            entries[1].problem("size", "x").to_string(),
            "f.toml:5: sample.size: x"
        );
    }

    #[test]
    fn shapes_and_strangers() {
        for (text, error) in [
            (
                "[sample]\nname = \"a\"\n",
                "f.toml:1: sample: expected sections [[sample]], found a table",
            ),
            (
                "sample = 5\n",
                "f.toml:1: sample: expected sections [[sample]], found an integer",
            ),
            (
                "\n[samples]\n",
                "f.toml:2: samples: unknown section, did you mean `sample`?",
            ),
            ("port = 1\n", "f.toml:1: port: unknown key"),
            ("[a]\nb = 1\nb = 2\n", "f.toml:3: not TOML: duplicate key"),
        ] {
            assert_eq!(errors(text), [error]);
        }
        let (_, problems) = read("\n[elsewhere]\nany = 1\n");
        assert_eq!(
            problems.warnings[0].to_string(),
            "f.toml:2: elsewhere: out of scope of this program, ignored"
        );
    }

    #[test]
    fn edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("port", "prot", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
