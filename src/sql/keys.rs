//! What a statement says about keys: which tables at which level, which columns equal what.
//!
//! Which columns are keys is not known here: all are noted that are compared with `=` where the comparison must
//! hold for every row that counts. Nothing else is: not `id + 1 = 8`, not one arm of an OR, not what stands under
//! NOT or in an output. Values are positions of lifted literals and parameters, so this is made once per shape.
//!
//! A *level* is one SELECT, or the body of an INSERT, UPDATE, DELETE or MERGE. Subqueries, common table expressions
//! and arms of set operations are levels of their own.

use std::ops::Range;

use super::statement::TableUse;

/// What a statement says about keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// In the order in which they begin; the first is the statement.
    pub levels: Vec<Level>,
    /// Tables, level by level, each as often as it is named.
    pub references: Vec<Reference>,
    /// Columns that must be among values.
    pub restrictions: Vec<Restriction>,
    /// Columns that are equal.
    pub equalities: Vec<Equality>,
    /// Orders by the distance of a column to a value, with a limit.
    pub nearest: Vec<Nearest>,
    /// What is written, at any level.
    pub writes: Vec<Write>,
    /// But in what the statement itself returns, it names columns that say where a row is and who wrote it (`ctid`, `xmin`, …), of
    /// which each shard has its own.
    pub system_columns: bool,
    /// There is more in it than is understood.
    pub incomplete: bool,
}

/// One level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The level that it stands in; of a common table expression that is used, the one that uses it.
    pub parent: Option<u16>,
    /// How.
    pub place: Place,
    /// Its tables; those of levels within it may be between them.
    pub references: Range<u16>,
    /// Its rows are not just the rows of its tables that qualify: it groups, aggregates, limits, removes duplicates, looks at
    /// windows, or calls a function that may be an aggregate.
    pub reduces: bool,
    /// It puts the rows of its children together, not by `UNION ALL` alone or not at all.
    pub combines: bool,
    /// Outer joins: tables whose rows all count, and those whose rows may be missing.
    pub outer_joins: Vec<(Range<u16>, Range<u16>)>,
    /// How often a common table expression is used.
    pub uses: u16,
}

/// How a level stands in its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the statement.
    Top,
    /// In FROM.
    From,
    /// `WITH …`
    With,
    /// `WITH RECURSIVE …`
    Recursive,
    /// In an expression.
    Expression,
    /// An arm of UNION, INTERSECT or EXCEPT.
    Arm,
    /// The query of INSERT … SELECT.
    Source,
}

/// A table where it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// None: the search path decides.
    pub schema: Option<Box<str>>,
    /// The table.
    pub name: Box<str>,
    /// What is done to it.
    pub usage: TableUse,
    /// Where.
    pub level: u16,
}

/// A column of a table of the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The level of the tables that it may be of.
    pub level: u16,
    /// These tables, as far as they are of that level: one if it is qualified, else all that are in sight.
    pub of: Range<u16>,
    /// Its name.
    pub name: Box<str>,
}

/// For every row of the tables in `within` that counts, the column is one of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// Which column.
    pub column: Column,
    /// Whose rows: of the column's tables only these are restricted.
    pub within: Range<u16>,
    /// The values.
    pub members: Vec<Member>,
}

/// A SELECT of the first rows in order of `column <-> to`, the distance of vectors in pgvector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Which column.
    pub column: Column,
    /// The value.
    pub to: Operand,
    /// How many rows; all, if it is NULL.
    pub limit: Operand,
}

/// One value, or all elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub operand: Operand,
    /// `= ANY (operand)`
    pub array: bool,
}

/// For every row of `to` that counts, only those rows of `from` count that have the same value. What restricts `from` restricts
/// `to`, and a row of `to` is needed where the rows of `from` are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equality {
    /// One column.
    pub from: Column,
    /// The other.
    pub to: Column,
    /// Of `to`'s tables only these.
    pub within: Range<u16>,
    /// `to` is of a level within that of `from`, evaluated for each of its rows.
    pub correlated: bool,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A lifted literal, by its index.
    Literal {
        /// Of the text's literals.
        index: u32,
        /// There is a minus in front.
        negative: bool,
        /// `::type`, without schema.
        cast: Option<Box<str>>,
    },
    /// A literal that is part of the shape: its content.
    Constant {
        /// Without quotes.
        value: Box<str>,
        /// A number, and not a string.
        number: bool,
        /// `::type`, without schema.
        cast: Option<Box<str>>,
    },
    /// `$n`
    Parameter {
        /// From 1.
        number: u32,
        /// `::type`, without schema.
        cast: Option<Box<str>>,
    },
    /// NULL
    Null,
    /// DEFAULT
    Default,
    /// A column as it is.
    Column(Column),
    /// An expression.
    Other,
}

/// One change of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub target: u16,
    /// The level of the statement that writes.
    pub level: u16,
    /// What is written.
    pub change: Change,
}

/// How rows are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// INSERT
    Insert {
        /// The columns named; none named means all, in the table's order.
        columns: Vec<Box<str>>,
        /// Where the rows come from.
        rows: Rows,
        /// Columns that ON CONFLICT DO UPDATE sets.
        conflict_sets: Vec<Box<str>>,
        /// What it says of values for identities.
        overriding: Overriding,
    },
    /// UPDATE
    Update {
        /// Columns and what they become.
        sets: Vec<(Box<str>, Operand)>,
    },
    /// DELETE
    Delete,
    /// MERGE
    Merge {
        /// Columns that an UPDATE of it sets.
        sets: Vec<Box<str>>,
        /// Columns and values of each INSERT of it; without columns, an INSERT is incomplete.
        inserts: Vec<Vec<(Box<str>, Operand)>>,
        /// It changes rows of the target that nothing in the source matches.
        unmatched_target: bool,
    },
}

/// The OVERRIDING clause of an INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overriding {
    /// None: a value for an identity that is always its own is an error.
    Nothing,
    /// `SYSTEM VALUE`: values are stored.
    System,
    /// `USER VALUE`: what is given for an identity is ignored.
    User,
}

/// Rows of an INSERT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// `DEFAULT VALUES`
    Defaults,
    /// `VALUES`: row by row.
    Values {
        /// Values in each row.
        width: usize,
        /// All of them.
        operands: Vec<Operand>,
    },
    /// `SELECT`
    Select {
        /// Its level.
        level: u16,
        /// What it puts into each column.
        outputs: Outputs,
    },
}

/// What a query selects, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Those of which it is known at which place they are: none behind a star.
    pub first: Vec<Operand>,
    /// There may be others behind them.
    pub open: bool,
}

impl Outputs {
    /// Of what is known that it is one, and nothing else.
    pub fn open() -> Self {
        Self {
            first: Vec::new(),
            open: true,
        }
    }

    /// May it have none at this place, from 0?
    pub fn may_lack(&self, place: usize) -> bool {
        place >= self.first.len()
    }
}

impl Keys {
    /// Does the statement name this column where it can be one of this table?
    pub fn names(&self, reference: u16, name: &str) -> bool {
        let own = |column: &Column| column.of.contains(&reference) && *column.name == *name;
        let listed = |names: &[Box<str>]| names.iter().any(|listed| **listed == *name);
        let written = |write: &&Write| match &write.change {
            Change::Insert { columns, .. } => listed(columns),
            Change::Update { sets } => sets.iter().any(|(set, _)| **set == *name),
            Change::Delete => false,
            Change::Merge { sets, inserts, .. } => {
                listed(sets)
                    || inserts
                        .iter()
                        .flatten()
                        .any(|(column, _)| **column == *name)
            }
        };
        let mut writes = self.writes.iter().filter(|write| write.target == reference);
        self.restrictions
            .iter()
            .any(|restriction| own(&restriction.column))
            || self
                .equalities
                .iter()
                .any(|equality| own(&equality.from) || own(&equality.to))
            || self.nearest.iter().any(|nearest| own(&nearest.column))
            || writes.any(|write| written(&write))
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let operands = |write: &Write| match &write.change {
            Change::Insert {
                rows: Rows::Values { operands, .. },
                ..
            } => operands.len(),
            _ => 8,
        };
        let members = |restriction: &Restriction| restriction.members.len();
        let count = self.writes.iter().map(operands).sum::<usize>()
            + self.restrictions.iter().map(members).sum::<usize>();
        count * size_of::<Operand>()
            + (self.levels.len() + self.references.len()) * 2 * size_of::<Level>()
            + self.equalities.len() * size_of::<Equality>()
            + self.restrictions.len() * size_of::<Restriction>()
            + self.nearest.len() * size_of::<Nearest>()
    }
}
