//! Bets on what an operator holds.

use super::bet::{Bet, BetRefusal};
use crate::domain::ids::Source;
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};

/// Why a bet at a price of this source is refused: a hold covers its market or its selection when
/// it is placed.
pub fn refusal(bet: &Bet, source: &Source, holds: &[Hold]) -> Option<BetRefusal> {
    let in_force = || {
        let holds = holds.iter().filter(|hold| hold.is_in_force(bet.placed_at));
        holds.map(|hold| &hold.scope)
    };
    let selection_in =
        |scope: &HoldScope| scope.selection_in(&bet.event_id, &bet.market) == Some(&bet.selection);
    if in_force().any(|scope| scope.covers(source, &bet.event_id, &bet.market)) {
        return Some(BetRefusal::MarketSuspended {
            status: MarketStatus::Suspended,
        });
    }
    let is_selection_held = in_force().any(selection_in);
    is_selection_held.then_some(BetRefusal::SelectionSuspended {
        status: SelectionStatus::Suspended,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::bets::bet::{BetId, BetStatus};
    use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, UserId};
    use crate::domain::odds::book::MarketState;
    use crate::domain::odds::restrictions::{Restriction, Restrictions};
    use crate::domain::odds::update::testing::market_update;
    use crate::domain::timestamp::Timestamp;
    use crate::domain::wallet::amount::Amount;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn market(line: Option<&str>) -> MarketKey {
        MarketKey {
            name: MarketName::new("m").unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        }
    }

    fn bet() -> Bet {
        Bet {
            id: BetId(Uuid::nil()),
            user_id: UserId::new("u").unwrap(),
            event_id: EventId::new("E").unwrap(),
            market: market(None),
            selection: SelectionId::new("home").unwrap(),
            stake: Amount::new(1).unwrap(),
            price: "1.5".parse().unwrap(),
            status: BetStatus::Pending,
            reason: None,
            provider_ref: None,
            placed_at: at(5),
            decide_by: at(9),
            decided_at: None,
            settlement: None,
        }
    }

    fn scopes() -> impl Strategy<Value = HoldScope> {
        let source = prop::sample::select(vec!["a", "b"]).prop_map(|id| Source::new(id).unwrap());
        let event = prop::sample::select(vec!["E", "F"]).prop_map(|id| EventId::new(id).unwrap());
        let key = prop::sample::select(vec![None, Some("2.5")]).prop_map(market);
        let selection =
            prop::sample::select(vec!["home", "away"]).prop_map(|id| SelectionId::new(id).unwrap());
        prop_oneof![
            Just(HoldScope::All),
            source.prop_map(HoldScope::Source),
            event.clone().prop_map(HoldScope::Event),
            (event.clone(), key.clone()).prop_map(|(event, key)| HoldScope::Market(event, key)),
            (event, key, selection)
                .prop_map(|(event, key, selection)| HoldScope::Selection(event, key, selection)),
        ]
    }

    #[test]
    fn hold_that_has_ended_refuses_nothing() {
        let source = Source::new("a").unwrap();
        let hold = |until| Hold {
            id: 1,
            scope: HoldScope::All,
            until,
        };
        assert!(refusal(&bet(), &source, &[hold(None)]).is_some());
        assert!(refusal(&bet(), &source, &[hold(Some(at(6)))]).is_some());
        assert!(refusal(&bet(), &source, &[hold(Some(at(5)))]).is_none());
        assert!(refusal(&bet(), &source, &[]).is_none());
    }

    proptest! {
        /// A bet is refused exactly if its market or selection is shown as suspended.
        #[test]
        fn refused_bet_is_shown_suspended(scopes in prop::collection::vec(scopes(), 0..5)) {
            let bet = bet();
            let mut update = market_update("E", "m", None, 1, 1);
            update.source = Source::new("a").unwrap();
            let holds: Vec<_> = (1..)
                .zip(scopes)
                .map(|(id, scope)| Hold { id, scope, until: None })
                .collect();
            let refused = refusal(&bet, &update.source, &holds);
            let is_selection_held = holds
                .iter()
                .any(|hold| hold.scope.selection_of(&update) == Some(&bet.selection));
            let state = MarketState { update, seq: 1 };
            let shown = Restrictions { holds, ..Restrictions::default() };
            let is_market_held = shown.on_market(&state) == Some(Restriction::Held);
            let code = refused.map(|refusal| refusal.code());
            let expected = if is_market_held {
                Some("MARKET_SUSPENDED")
            } else {
                is_selection_held.then_some("SELECTION_SUSPENDED")
            };
            prop_assert_eq!(code, expected);
        }
    }
}
