//! Starts actors for the role of the code that starts them.

use actix::dev::channel::{AddressReceiver, channel};
use actix::prelude::*;

use crate::telemetry::role;

/// Starts an actor with this mailbox capacity on the calling thread; 0 is unbounded.
pub(crate) fn start_here<A>(mailbox: usize, actor: A) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
{
    let (sender, receiver) = channel(mailbox);
    run(receiver, actor);
    Addr::new(sender)
}

/// Starts an actor with this mailbox capacity on a thread, which may be that of another role.
pub(crate) fn start_in<A>(thread: &ArbiterHandle, mailbox: usize, actor: A) -> Addr<A>
where
    A: Actor<Context = Context<A>> + Send,
{
    let (sender, receiver) = channel(mailbox);
    thread.spawn_fn(role::carry(move || run(receiver, actor)));
    Addr::new(sender)
}

fn run<A>(receiver: AddressReceiver<A>, actor: A)
where
    A: Actor<Context = Context<A>>,
{
    let running = Context::with_receiver(receiver).into_future(actor);
    actix::spawn(role::inherit(running));
}

/// Runs a future on its own. It goes on while the actor that waits for its output handles nothing
/// else, so a permit that it holds or waits for is not kept from others. `None` if it panicked.
pub(crate) fn run_detached<T: 'static>(
    future: impl Future<Output = T> + 'static,
) -> impl Future<Output = Option<T>> {
    let running = actix::spawn(role::inherit(future));
    async move { running.await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::role::RoleName;

    /// An actor that may start another one when it is asked for its role.
    struct Probe;

    #[derive(Message)]
    #[rtype(result = "RoleName")]
    struct GetRole;

    #[derive(Message)]
    #[rtype(result = "Addr<Probe>")]
    struct StartChild;

    impl Actor for Probe {
        type Context = Context<Probe>;
    }

    impl Handler<GetRole> for Probe {
        type Result = MessageResult<GetRole>;

        fn handle(&mut self, _: GetRole, _: &mut Context<Probe>) -> Self::Result {
            MessageResult(role::current())
        }
    }

    impl Handler<StartChild> for Probe {
        type Result = MessageResult<StartChild>;

        fn handle(&mut self, _: StartChild, _: &mut Context<Probe>) -> Self::Result {
            MessageResult(start_here(1, Probe))
        }
    }

    #[actix_web::test]
    async fn actors_and_children_inherit_role() {
        let arbiter = Arbiter::new();
        let thread = arbiter.handle();
        thread.spawn_fn(|| role::set_for_thread(Some("odds")));
        let book = role::within(Some("processor"), || start_in(&thread, 1, Probe));
        let registry = role::within(Some("odds"), || start_in(&thread, 1, Probe));
        let child = book.send(StartChild).await.unwrap();
        for (actor, role) in [
            (book, "processor"),
            (child, "processor"),
            (registry, "odds"),
        ] {
            assert_eq!(actor.send(GetRole).await.unwrap(), Some(role));
        }
        assert_eq!(role::current(), None);
        arbiter.stop();
    }
}
