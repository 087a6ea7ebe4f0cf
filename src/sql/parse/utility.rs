//! Statements that are no queries: transactions, settings, cursors, definitions.

use std::sync::Arc;

use pg_query::protobuf as pb;
use pg_query::protobuf::TransactionStmtKind as T;
use pg_query::protobuf::VariableSetKind as V;
use pg_query::{NodeEnum, NodeRef};

use super::facts::{self, optional, table_of};
use super::names::{self, is_on, options, some, value};
use super::operands::Literals;
use crate::sql::statement::{
    Copy, CopyOption, Created, Isolation, Kind, Modes, Need, Reshape, Set, Statement, Table,
    TableUse,
};

/// `CURSOR_OPT_HOLD` of PostgreSQL's `parsenodes.h`.
const CURSOR_HOLD: i32 = 0x20;

/// A statement that is not a query.
pub(super) fn statement(node: NodeRef<'_>, literals: Literals<'_>) -> Statement {
    let kind = match node {
        NodeRef::TransactionStmt(n) => transaction(n),
        NodeRef::VariableSetStmt(n) => set(n),
        NodeRef::ConstraintsSetStmt(_) => Kind::SetConstraints,
        NodeRef::VariableShowStmt(n) => Kind::Show(n.name.as_str().into()),
        NodeRef::ExplainStmt(n) => Kind::Explain {
            analyze: options(&n.options).any(|option| option.defname == "analyze" && is_on(option)),
            statement: Box::new(optional(n.query.as_deref(), literals)),
        },
        NodeRef::PrepareStmt(n) => Kind::Prepare {
            name: n.name.as_str().into(),
            types: n.argtypes.iter().map(plain_type).collect(),
            statement: Box::new(optional(n.query.as_deref(), literals)),
        },
        NodeRef::ExecuteStmt(n) => Kind::Execute {
            name: n.name.as_str().into(),
            arguments: n.params.iter().map(|node| literals.operand(node)).collect(),
        },
        NodeRef::DeallocateStmt(n) => Kind::Deallocate(some(&n.name)),
        NodeRef::DeclareCursorStmt(n) => Kind::Declare {
            cursor: n.portalname.as_str().into(),
            hold: n.options & CURSOR_HOLD != 0,
            statement: Box::new(optional(n.query.as_deref(), literals)),
        },
        NodeRef::FetchStmt(n) => Kind::Fetch(n.portalname.as_str().into()),
        NodeRef::ClosePortalStmt(n) => Kind::Close(some(&n.portalname)),
        NodeRef::ListenStmt(n) => Kind::Listen(n.conditionname.as_str().into()),
        NodeRef::UnlistenStmt(n) => Kind::Unlisten(some(&n.conditionname)),
        NodeRef::NotifyStmt(n) => Kind::Notify(n.conditionname.as_str().into()),
        NodeRef::CopyStmt(n) => return copy(n, literals),
        NodeRef::LockStmt(_) => Kind::Lock,
        NodeRef::TruncateStmt(_) => Kind::Truncate,
        NodeRef::CallStmt(_) => Kind::Call,
        NodeRef::DoStmt(_) => Kind::Do,
        NodeRef::DiscardStmt(_) => Kind::Discard,
        NodeRef::CreateTableAsStmt(n) => {
            Kind::CreateTableAs(Box::new(optional(n.query.as_deref(), literals)))
        }
        NodeRef::VacuumStmt(n) => Kind::Maintenance {
            alone: n.is_vacuumcmd,
        },
        // In a transaction it works unless CONCURRENTLY, and for what is not partitioned.
        NodeRef::ReindexStmt(_) => Kind::Maintenance { alone: true },
        NodeRef::ClusterStmt(n) => Kind::Maintenance {
            alone: n.relation.is_none(),
        },
        NodeRef::CheckPointStmt(_) | NodeRef::LoadStmt(_) | NodeRef::AlterSystemStmt(_) => {
            Kind::Server
        }
        NodeRef::IndexStmt(n) => Kind::Ddl {
            alone: n.concurrent,
        },
        NodeRef::DropStmt(n) => Kind::Ddl {
            alone: n.concurrent,
        },
        NodeRef::CreatedbStmt(_)
        | NodeRef::DropdbStmt(_)
        | NodeRef::CreateTableSpaceStmt(_)
        | NodeRef::DropTableSpaceStmt(_) => Kind::Ddl { alone: true },
        _ => Kind::Ddl { alone: false },
    };
    let mut statement = Statement::new(kind);
    relations(node, &mut statement);
    statement.reshapes = reshape(node);
    match node {
        NodeRef::CallStmt(call) => {
            if let Some(call) = &call.funccall {
                facts::read(&mut statement, NodeRef::FuncCall(call));
            }
        }
        NodeRef::ExecuteStmt(execute) => {
            let arguments = execute.params.iter().filter_map(|node| node.node.as_ref());
            arguments.for_each(|node| facts::read(&mut statement, node.to_ref()));
        }
        _ => {}
    }
    statement
}

/// The name of a type that is built in and no array; empty for all others.
fn plain_type(node: &pb::Node) -> Box<str> {
    let Some(NodeEnum::TypeName(name)) = &node.node else {
        return "".into();
    };
    let (schema, named) = names::qualified(&name.names);
    let plain = name.array_bounds.is_empty() && !name.setof && !name.pct_type;
    match schema.as_deref() {
        None | Some("pg_catalog") if plain => named,
        _ => "".into(),
    }
}

fn transaction(n: &pb::TransactionStmt) -> Kind {
    let savepoint = || n.savepoint_name.as_str().into();
    let gid = || n.gid.as_str().into();
    match n.kind() {
        T::TransStmtBegin | T::TransStmtStart => Kind::Begin(modes(&n.options)),
        T::TransStmtCommit => Kind::Commit { chain: n.chain },
        T::TransStmtRollback => Kind::Rollback { chain: n.chain },
        T::TransStmtSavepoint => Kind::Savepoint(savepoint()),
        T::TransStmtRelease => Kind::Release(savepoint()),
        T::TransStmtRollbackTo => Kind::RollbackTo(savepoint()),
        T::TransStmtPrepare => Kind::PrepareTransaction(gid()),
        T::TransStmtCommitPrepared => Kind::CommitPrepared(gid()),
        T::TransStmtRollbackPrepared => Kind::RollbackPrepared(gid()),
        T::Undefined => Kind::Ddl { alone: false },
    }
}

fn modes(list: &[pb::Node]) -> Modes {
    let mut modes = Modes::default();
    for option in options(list) {
        match option.defname.as_str() {
            "transaction_read_only" => modes.read_only = Some(is_on(option)),
            "transaction_deferrable" => modes.deferrable = Some(is_on(option)),
            "transaction_isolation" => {
                let level = option.arg.as_deref().and_then(value);
                modes.isolation = Some(match level.as_deref() {
                    Some("serializable") => Isolation::Serializable,
                    Some("repeatable read") => Isolation::RepeatableRead,
                    _ => Isolation::ReadCommitted,
                });
            }
            _ => {}
        }
    }
    modes
}

fn set(n: &pb::VariableSetStmt) -> Kind {
    let name = || n.name.to_ascii_lowercase().into();
    match n.kind() {
        V::VarReset => Kind::Reset(Some(name())),
        V::VarResetAll => Kind::Reset(None),
        V::VarSetMulti if n.name == "TRANSACTION" => Kind::SetTransaction(modes(&n.args)),
        V::VarSetMulti if n.name == "SESSION CHARACTERISTICS" => {
            Kind::SetSessionCharacteristics(modes(&n.args))
        }
        _ => Kind::Set(Box::new(Set {
            name: name(),
            local: n.is_local,
            values: n.args.iter().filter_map(value).collect(),
        })),
    }
}

fn copy(n: &pb::CopyStmt, literals: Literals<'_>) -> Statement {
    let copy = Copy {
        from: n.is_from,
        stream: n.filename.is_empty() && !n.is_program,
        columns: n
            .attlist
            .iter()
            .filter_map(names::string)
            .map(Into::into)
            .collect(),
        query: n
            .query
            .is_some()
            .then(|| Box::new(optional(n.query.as_deref(), literals))),
        options: options(&n.options).map(option).collect(),
        filtered: n.where_clause.is_some(),
    };
    let usage = if n.is_from {
        TableUse::Insert
    } else {
        TableUse::Read
    };
    let mut statement = Statement::new(Kind::Copy(Box::new(copy)));
    let filter = n.where_clause.as_deref();
    if let Some(filter) = filter.and_then(|node| node.node.as_ref()) {
        facts::read(&mut statement, filter.to_ref());
    }
    if let Some(table) = &n.relation {
        statement.tables.push(table_of(table, usage));
    }
    statement
}

fn option(option: &pb::DefElem) -> (Box<str>, CopyOption) {
    let text = option.arg.as_deref().and_then(value).unwrap_or_default();
    let given = match option.arg.as_ref().and_then(|node| node.node.as_ref()) {
        None => CopyOption::Nothing,
        Some(NodeEnum::AStar(_)) => CopyOption::Every,
        Some(NodeEnum::List(list)) => {
            CopyOption::List(list.items.iter().filter_map(value).collect())
        }
        Some(NodeEnum::Integer(_) | NodeEnum::Float(_)) => CopyOption::Number(text),
        Some(_) => CopyOption::Word(text),
    };
    (option.defname.to_ascii_lowercase().into(), given)
}

fn redefined(name: &[pb::Node]) -> Table {
    let (schema, name) = names::qualified(name);
    Table {
        schema,
        name,
        alias: None,
        usage: TableUse::Redefinition,
    }
}

fn created(create: &pb::CreateStmt) -> Created {
    let mut created = Created {
        open: !create.inh_relations.is_empty() || create.of_typename.is_some(),
        may_exist: create.if_not_exists,
        ..Created::default()
    };
    let refers = |constraints: &[pb::Node]| {
        let mut constraints = constraints.iter();
        constraints.any(|node| match node.node.as_ref() {
            Some(NodeEnum::Constraint(constraint)) => {
                constraint.contype() == pb::ConstrType::ConstrForeign
            }
            _ => true,
        })
    };
    for element in &create.table_elts {
        match element.node.as_ref() {
            Some(NodeEnum::ColumnDef(column)) => {
                created.columns.push(column.colname.as_str().into());
                created.refers |= refers(&column.constraints);
                if default(column) == Default::Varies {
                    created.varying.push(column.colname.as_str().into());
                }
            }
            Some(NodeEnum::Constraint(_)) => {
                created.refers |= refers(std::slice::from_ref(element));
            }
            _ => created.open = true,
        }
    }
    created.refers |= refers(&create.constraints);
    created
}

/// What a column gets by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Default {
    /// The same everywhere, nothing perhaps.
    Constant,
    /// A number of a sequence.
    Counted,
    /// What may be something else on every server.
    Varies,
}

fn default(column: &pb::ColumnDef) -> Default {
    let named = column.type_name.as_ref();
    let (_, of_type) = names::qualified(named.map_or(&[], |named| &named.names));
    let serial = [
        "serial",
        "bigserial",
        "smallserial",
        "serial2",
        "serial4",
        "serial8",
    ];
    if serial.contains(&&*of_type) {
        return Default::Counted;
    }
    let constraints = column.constraints.iter();
    let defaults = constraints.filter_map(|node| match node.node.as_ref()? {
        NodeEnum::Constraint(constraint) => match constraint.contype() {
            pb::ConstrType::ConstrDefault => constraint.raw_expr.as_deref().map(expression),
            pb::ConstrType::ConstrIdentity => Some(Default::Counted),
            _ => None,
        },
        _ => None,
    });
    let mut defaults = defaults.filter(|default| *default != Default::Constant);
    defaults.next().unwrap_or(Default::Constant)
}

fn expression(node: &pb::Node) -> Default {
    match node.node.as_ref() {
        Some(NodeEnum::AConst(_)) => Default::Constant,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().map_or(Default::Varies, expression),
        Some(NodeEnum::AArrayExpr(array)) => {
            let mut elements = array.elements.iter().map(expression);
            match elements.all(|element| element == Default::Constant) {
                true => Default::Constant,
                false => Default::Varies,
            }
        }
        Some(NodeEnum::FuncCall(call)) => match names::qualified(&call.funcname) {
            (None, name) if &*name == "nextval" => Default::Counted,
            (Some(schema), name) if &*schema == "pg_catalog" && &*name == "nextval" => {
                Default::Counted
            }
            _ => Default::Varies,
        },
        _ => Default::Varies,
    }
}

/// Does an expression call what may have another answer on every server?
fn calls_anew(node: &pb::Node) -> bool {
    let Some(node) = &node.node else {
        return false;
    };
    let mut statement = Statement::new(Kind::Server);
    facts::read(&mut statement, node.to_ref());
    statement
        .functions
        .iter()
        .any(|function| crate::sql::asked::known(&function.name).is_some() || !function.harmless)
}

/// What a definition may make of tables that there are.
fn reshape(node: NodeRef<'_>) -> Option<Box<Reshape>> {
    let mut reshape = Reshape::default();
    match node {
        NodeRef::AlterTableStmt(n) => {
            for command in &n.cmds {
                if let Some(NodeEnum::AlterTableCmd(command)) = &command.node {
                    add_command(command, &mut reshape);
                }
            }
        }
        NodeRef::RenameStmt(n) => match n.rename_type() {
            pb::ObjectType::ObjectColumn => {
                let names = [&n.subname, &n.newname];
                reshape
                    .columns
                    .extend(names.map(|name| name.as_str().into()));
            }
            pb::ObjectType::ObjectTable | pb::ObjectType::ObjectSchema => reshape.names = true,
            _ => {}
        },
        NodeRef::AlterObjectSchemaStmt(n) => {
            reshape.names = n.object_type() == pb::ObjectType::ObjectTable;
        }
        // What refers to a table that goes, or inherits from it, may be another one then.
        NodeRef::DropStmt(n) => {
            reshape.cascades = n.behavior() == pb::DropBehavior::DropCascade;
            reshape.references = reshape.cascades;
        }
        NodeRef::CreateStmt(n) => reshape.families = !n.inh_relations.is_empty(),
        _ => {}
    }
    (reshape != Reshape::default()).then(|| Box::new(reshape))
}

fn add_command(command: &pb::AlterTableCmd, reshape: &mut Reshape) {
    let column = match command.def.as_deref().and_then(|def| def.node.as_ref()) {
        Some(NodeEnum::ColumnDef(column)) => Some(column),
        _ => None,
    };
    match command.subtype() {
        pb::AlterTableType::AtAddColumn => {
            let name = column.map(|column| column.colname.as_str());
            reshape.columns.extend(name.map(Box::from));
            let default = column.map_or(Default::Constant, |column| default(column));
            let varies = name.filter(|_| default == Default::Varies);
            reshape.defaults.extend(varies.map(Box::from));
            reshape.fills |= default != Default::Constant;
        }
        pb::AlterTableType::AtColumnDefault
        | pb::AlterTableType::AtAddIdentity
        | pb::AlterTableType::AtSetIdentity
        | pb::AlterTableType::AtDropIdentity => {
            reshape.defaults.push(command.name.as_str().into());
        }
        pb::AlterTableType::AtDropColumn => reshape.columns.push(command.name.as_str().into()),
        pb::AlterTableType::AtAlterColumnType => {
            let computed = column.and_then(|column| column.raw_default.as_deref());
            let of = match computed {
                Some(_) => &mut reshape.computed,
                None => &mut reshape.typed,
            };
            of.push(command.name.as_str().into());
            reshape.fills |= computed.is_some_and(calls_anew);
        }
        pb::AlterTableType::AtAddInherit
        | pb::AlterTableType::AtDropInherit
        | pb::AlterTableType::AtAttachPartition
        | pb::AlterTableType::AtDetachPartition => reshape.families = true,
        pb::AlterTableType::AtAddConstraint
        | pb::AlterTableType::AtValidateConstraint
        | pb::AlterTableType::AtDropConstraint => reshape.references = true,
        _ => {}
    }
}

/// The tables that a statement names to change, lock or remove them as a whole.
fn relations(node: NodeRef<'_>, statement: &mut Statement) {
    let usage = match node {
        NodeRef::CreateStmt(_) => TableUse::Creation,
        NodeRef::ViewStmt(_) | NodeRef::CreateTableAsStmt(_) => TableUse::Redefinition,
        NodeRef::RenameStmt(n) if n.rename_type() != pb::ObjectType::ObjectColumn => {
            TableUse::Redefinition
        }
        NodeRef::AlterObjectSchemaStmt(_) => TableUse::Redefinition,
        NodeRef::AlterTableStmt(_) | NodeRef::RenameStmt(_) => TableUse::Alteration,
        _ => TableUse::Definition,
    };
    if let NodeRef::CreateStmt(n) = node {
        statement.created = Some(Arc::new(created(n)));
    }
    let mut add = |table: Option<&pb::RangeVar>| {
        if let Some(table) = table {
            if table.relpersistence == "t" || table.schemaname.starts_with("pg_temp") {
                statement.needs_primary = Some(Need::Temporary);
            }
            statement.tables.push(table_of(table, usage));
        }
    };
    let list = |nodes: &[pb::Node], add: &mut dyn FnMut(Option<&pb::RangeVar>)| {
        for node in nodes {
            match node.node.as_ref() {
                Some(NodeEnum::RangeVar(table)) => add(Some(table)),
                Some(NodeEnum::VacuumRelation(relation)) => add(relation.relation.as_ref()),
                _ => {}
            }
        }
    };
    match node {
        NodeRef::LockStmt(n) => list(&n.relations, &mut add),
        NodeRef::TruncateStmt(n) => list(&n.relations, &mut add),
        NodeRef::VacuumStmt(n) => list(&n.rels, &mut add),
        NodeRef::ReindexStmt(n) => add(n.relation.as_ref()),
        NodeRef::ClusterStmt(n) => add(n.relation.as_ref()),
        NodeRef::CreateStmt(n) => add(n.relation.as_ref()),
        NodeRef::CreateTableAsStmt(n) => add(n.into.as_ref().and_then(|into| into.rel.as_ref())),
        NodeRef::AlterTableStmt(n) => add(n.relation.as_ref()),
        NodeRef::RenameStmt(n) => add(n.relation.as_ref()),
        NodeRef::AlterObjectSchemaStmt(n) => add(n.relation.as_ref()),
        NodeRef::IndexStmt(n) => add(n.relation.as_ref()),
        NodeRef::ViewStmt(n) => add(n.view.as_ref()),
        NodeRef::RefreshMatViewStmt(n) => add(n.relation.as_ref()),
        NodeRef::RuleStmt(n) => add(n.relation.as_ref()),
        NodeRef::CreateTrigStmt(n) => add(n.relation.as_ref()),
        NodeRef::CreateSeqStmt(n) => add(n.sequence.as_ref()),
        // Names of functions, here and there.
        NodeRef::CreateFunctionStmt(n) => statement.tables.push(redefined(&n.funcname)),
        NodeRef::DropStmt(n) => {
            for object in &n.objects {
                if let Some(NodeEnum::List(parts)) = &object.node {
                    statement.tables.push(redefined(&parts.items));
                }
            }
        }
        _ => {}
    }
}
