//! Random records.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn any_result() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"result": "won"})),
        Just(json!({"result": "lost"})),
        Just(json!({"result": "void"})),
        Just(json!({"result": "undecided"})),
        (1_u32..1_000)
            .prop_map(|void| json!({"result": "won", "void_factor": f64::from(void) / 1_000.0})),
        (1_u32..1_000)
            .prop_map(|void| json!({"result": "lost", "void_factor": f64::from(void) / 1_000.0})),
        (1_u32..20, 20_u32..1_000)
            .prop_map(|(n, d)| json!({"result": "won", "dead_heat": format!("{n}/{d}")})),
    ]
}

/// The kind and the content of a record about `home`, without its revision. Bets are placed in the
/// seconds from 0 to 30.
pub(crate) fn any_content() -> impl Strategy<Value = (&'static str, Value)> {
    let settled = (any_result(), proptest::option::of(0_i64..30), any::<bool>());
    let settled = settled.prop_map(|(mut result, until, is_scouted)| {
        result["id"] = json!("home");
        let certainty = if is_scouted { "scouted" } else { "confirmed" };
        let fields =
            json!({"selections": [result], "bets_until": until.map(at), "certainty": certainty});
        ("settlement", fields)
    });
    let window = (
        proptest::option::of(0_i64..15),
        proptest::option::of(15_i64..30),
    )
        .prop_map(|(from, until)| json!({"from": from.map(at), "until": until.map(at)}));
    prop_oneof![
        4 => settled,
        1 => Just(("rollback_settlement", json!({}))),
        1 => Just(("rollback_settlement", json!({"selections": ["home"]}))),
        1 => window.clone().prop_map(|window| ("cancel", window)),
        1 => window.prop_map(|window| ("rollback_cancel", window)),
    ]
}
