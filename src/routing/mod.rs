//! Where a statement goes: which servers may run it, and why.
//!
//! `role` says whether that may be a replica, `route` which shards have what it touches (`values` are the keys that it
//! names, `reach` what its tables have to do with each other, `direct` is a short way to that answer for most statements, `changes` are of rows, `split` divides those of an INSERT, `moves` takes one from shard to shard; `several` plans a SELECT for more than one), `verdict` what it asks of several shards, `transaction` what
//! servers hear that join one, `two_phase` how several commit together,
//! `copy` what the data of COPY look like, `lookup` what is asked about keys that a query translates, `primary_key` whether an INSERT leaves it out, `asking` which values a server is asked for first, `echo` an INSERT … SELECT whose rows all have from one server, `views` which views are like tables, `reshape` what a definition may make of tables with rows, `preview` tells what would be done.

pub mod asking;
mod changes;
pub mod copy;
pub mod deadlock;
pub mod defined;
pub mod direct;
pub mod echo;
pub mod lookup;
pub mod moves;
mod plainly;
pub mod preview;
pub mod primary_key;
mod reach;
pub mod reshape;
pub mod role;
pub mod route;
pub mod several;
pub mod split;
pub mod transaction;
pub mod two_phase;
pub mod values;
pub mod verdict;
pub mod views;
