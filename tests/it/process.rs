//! The binary as a process: starting, stopping, being killed, and its messages when it cannot run.

mod access;
mod commands;
mod drain;
mod holds;
mod keyed;
mod killed;
mod lifecycle;
mod limits;
mod logs;
mod revoked;
mod secrets;

use std::path::Path;
use std::process::Output;

use diesel::{QueryableByName, RunQueryDsl, SqliteConnection, sql_query, sql_types};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{
    FakeSupplier, LoggedChild, OddsClient, ServerProcess, command, get_json, get_text, metric,
    original_frame, send, until, within,
};

/// Runs the binary until it exits.
async fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(folder, variables);
    within("the process ends", command.args(arguments).output())
        .await
        .unwrap()
}

/// Exit code and standard error.
async fn fails(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = run(folder, arguments, variables).await;
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A connection to the default database of a server that ran in a folder.
fn database(folder: &Path) -> SqliteConnection {
    use diesel::Connection;
    let path = folder.join("data/sports-bet.db");
    SqliteConnection::establish(path.to_str().unwrap()).unwrap()
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Number {
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

/// The result of `SELECT … AS number`.
fn number(database: &mut SqliteConnection, sql: &str) -> i64 {
    sql_query(sql)
        .get_result::<Number>(database)
        .unwrap()
        .number
}
