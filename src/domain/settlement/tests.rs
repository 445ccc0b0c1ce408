mod ledger;
mod orders;
mod payouts;
mod recordings;
mod rounds;
mod states;
