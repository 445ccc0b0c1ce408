use pretty_assertions::assert_eq;
use proptest::prelude::*;
use strum::IntoEnumIterator;

use super::*;

fn user(text: &str) -> UserId {
    UserId::new(text).unwrap()
}

fn scopes(scopes: &[Scope]) -> Scopes {
    scopes.iter().copied().collect()
}

fn user_with(id: &str, scopes: Scopes) -> Caller {
    let time = Timestamp::from_micros(1).unwrap();
    Caller::User {
        id: user(id),
        scopes,
        issued_at: time,
        expires_at: time,
    }
}

fn service_with(scopes: Scopes) -> Caller {
    Caller::Service {
        key: "k".to_owned(),
        scopes,
        expires_at: None,
    }
}

fn is_read(scope: Scope) -> bool {
    [Scope::OddsRead, Scope::WalletRead, Scope::BetsRead].contains(&scope)
}

#[test]
fn scopes_are_names_separated_by_spaces() {
    for scope in Scope::iter() {
        assert_eq!(Scopes::of_token(scope.as_str()), scopes(&[scope]));
    }
    assert_eq!(
        Scopes::of_token("bets:write  bets:read bets:write"),
        scopes(&[Scope::BetsRead, Scope::BetsWrite])
    );
    for none in [
        "",
        " ",
        "openid profile",
        "*",
        "odds:*",
        "operator:keys",
        "BETS:READ",
        "BetsRead",
        "bets:read,bets:write",
        "bets:read\twallet:read",
        "bets:read\u{a0}",
    ] {
        assert_eq!(Scopes::of_token(none), Scopes::default(), "{none:?}");
    }
}

#[test]
fn no_scope_is_no_right() {
    for scope in Scope::iter() {
        for caller in [
            user_with("u", Scopes::default()),
            service_with(Scopes::default()),
        ] {
            assert!(caller.require(scope, false).is_err(), "{caller:?} {scope}");
        }
    }
}

#[test]
fn odds_may_be_public() {
    for caller in [
        Caller::Anonymous,
        user_with("u", Scopes::default()),
        service_with(Scopes::default()),
    ] {
        assert_eq!(caller.require(Scope::OddsRead, true), Ok(()));
        assert!(caller.require(Scope::BetsRead, true).is_err());
    }
    let anonymous = Caller::Anonymous.require(Scope::OddsRead, false);
    assert_eq!(anonymous, Err(AccessDenied::Unauthenticated));
}

#[test]
fn user_never_moves_money() {
    let all: Scopes = Scope::iter().collect();
    assert_eq!(
        user_with("u", all.clone()).require(Scope::WalletMove, true),
        Err(AccessDenied::ServicesOnly(Scope::WalletMove))
    );
    assert_eq!(service_with(all).require(Scope::WalletMove, true), Ok(()));
}

#[test]
fn operator_reads_everything_and_moves_nothing() {
    let only = scopes(&[Scope::Operator]);
    for operator in [user_with("op", only.clone()), service_with(only)] {
        for scope in Scope::iter() {
            let allowed = is_read(scope) || scope == Scope::Operator;
            assert_eq!(operator.require(scope, false).is_ok(), allowed, "{scope}");
        }
        assert!(operator.sees(&user("u")));
        assert_eq!(operator.own_user(), None);
    }
    // With the right to bet, it bets for itself.
    let betting = user_with("op", scopes(&[Scope::Operator, Scope::BetsWrite]));
    assert_eq!(betting.act_for(&user("op")), Ok(()));
    assert_eq!(betting.act_for(&user("u")), Err(AccessDenied::OtherUser));
}

#[test]
fn unchecked_caller_may_do_anything() {
    for scope in Scope::iter() {
        assert_eq!(Caller::Unchecked.require(scope, false), Ok(()));
    }
    assert_eq!(Caller::Unchecked.act_for(&user("u")), Ok(()));
    assert_eq!(Caller::Unchecked.own_user(), None);
}

#[test]
fn own_user_is_that_of_the_token() {
    let all_but_operator = Scope::iter().filter(|scope| *scope != Scope::Operator);
    let caller = user_with("u", all_but_operator.collect());
    assert_eq!(caller.own_user(), Some(&user("u")));
    assert_eq!(service_with(Scopes::default()).own_user(), None);
    assert_eq!(Caller::Anonymous.own_user(), None);
}

fn any_scopes() -> impl Strategy<Value = Scopes> {
    let all: Vec<_> = Scope::iter().collect();
    let count = all.len();
    prop::sample::subsequence(all, 0..=count).prop_map(|some| some.into_iter().collect())
}

fn any_user() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["u", "U", "u2"])
}

fn any_caller() -> impl Strategy<Value = Caller> {
    prop_oneof![
        Just(Caller::Anonymous),
        (any_user(), any_scopes()).prop_map(|(id, scopes)| user_with(id, scopes)),
        any_scopes().prop_map(service_with),
    ]
}

proptest! {
    /// A caller sees, and acts for, only its own user; an operator sees all; a service is trusted
    /// to name the user.
    #[test]
    fn nobody_sees_what_is_not_theirs(caller in any_caller(), of in any_user()) {
        let of = user(of);
        let (acts, sees) = (caller.act_for(&of).is_ok(), caller.sees(&of));
        match &caller {
            Caller::Unchecked => prop_assert!(false, "checked callers only"),
            Caller::Anonymous => prop_assert!(!acts && !sees),
            Caller::Service { .. } => prop_assert!(acts && sees),
            Caller::User { id, scopes, .. } => {
                prop_assert_eq!(acts, *id == of);
                prop_assert_eq!(sees, *id == of || scopes.is_operator());
            }
        }
        if let Some(own) = caller.own_user() {
            prop_assert!(caller.act_for(own).is_ok() && caller.sees(own));
        }
    }

    /// Every right comes from a scope of the caller, but the public one.
    #[test]
    fn every_right_has_a_scope(caller in any_caller(), is_public: bool) {
        for scope in Scope::iter() {
            let is_open = is_public && scope == Scope::OddsRead;
            let has = match &caller {
                Caller::Unchecked | Caller::Anonymous => false,
                Caller::User { scopes, .. } => {
                    scope != Scope::WalletMove && scopes.allows(scope)
                }
                Caller::Service { scopes, .. } => scopes.allows(scope),
            };
            prop_assert_eq!(caller.require(scope, is_public).is_ok(), has || is_open);
        }
    }

    /// Names of other services' scopes, in any order and number, change nothing.
    #[test]
    fn unknown_scopes_are_ignored(known in any_scopes(), other in "[a-z:*]{0,12}", at in 0usize..8) {
        let unknown = format!("x-{other}");
        let mut names: Vec<&str> = known.iter().map(Scope::as_str).collect();
        names.insert(at.min(names.len()), &unknown);
        prop_assert_eq!(Scopes::of_token(&names.join(" ")), known);
    }

    #[test]
    fn any_text_is_read(text: String) {
        let scopes = Scopes::of_token(&text);
        prop_assert!(scopes.iter().all(|scope| text.contains(scope.as_str())));
    }
}
