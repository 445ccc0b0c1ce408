//! The first start of all, on a database without a table.

use serde_json::json;

use crate::support::{Folder, ServerProcess, until};

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn first_start_logs_no_fault() {
    let folder = Folder::on_real_engines();
    let database = folder.sandbox().value("DATABASE_URL").unwrap().to_owned();
    let process = ServerProcess::start(folder.path(), &[("DATABASE_URL", &database)]).await;
    let client = reqwest::Client::new();
    let body = json!({"userId": "u", "amount_cents": 100, "external_ref": "r"});
    let deposit = || client.post(format!("http://{}/wallet/deposit", process.wallet())).json(&body).send();
    until("the database is used", || async {
        deposit().await.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
    let log = process.log();
    let faults: Vec<_> = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
