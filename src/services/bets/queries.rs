//! Reads of bets.

use std::sync::Arc;

use crate::domain::bets::bet::{Bet, BetId, BetStep};
use crate::domain::ids::UserId;
use crate::services::wallet::executor::WalletExecutor;
use crate::store::StoreError;
use crate::store::money::{BetFilter, BetStore, Page};

/// Reads bets.
pub struct BetQueries {
    executor: Arc<WalletExecutor<dyn BetStore>>,
}

impl BetQueries {
    /// Reads with `executor`.
    pub fn new(executor: Arc<WalletExecutor<dyn BetStore>>) -> BetQueries {
        BetQueries { executor }
    }

    /// A bet that `is_visible`, and its steps, oldest first. A bet that is not visible costs the same
    /// single query as one that does not exist, so that the time of the answer tells nothing.
    pub async fn bet(
        &self,
        bet_id: BetId,
        is_visible: impl FnOnce(&Bet) -> bool + Send + 'static,
    ) -> Result<Option<(Bet, Vec<BetStep>)>, StoreError> {
        self.executor
            .read(move |store| {
                let Some(bet) = store.bet(bet_id)?.filter(is_visible) else {
                    return Ok(None);
                };
                let history = store.bet_history(bet_id)?;
                // The bet was decided between the two reads: read it again, so that it matches the
                // history.
                let is_outdated = history.last().is_some_and(|step| step.to != bet.status);
                let bet = if is_outdated {
                    store.bet(bet_id)?
                } else {
                    Some(bet)
                };
                Ok(bet.map(|bet| (bet, history)))
            })
            .await
    }

    /// A user's bets, newest first.
    pub async fn bets(
        &self,
        user_id: UserId,
        filter: BetFilter,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError> {
        self.executor
            .read(move |store| store.bets(&user_id, filter, page))
            .await
    }
}
