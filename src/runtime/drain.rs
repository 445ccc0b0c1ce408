//! Orderly shutdown of consumers.

use std::future::Future;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// To a consumer: finish work that would be lost with the process, read nothing more, leave the
/// group, and reply.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// It was stopped, and has done what would have been lost.
    Drained,
    /// It cannot continue. The task has logged why.
    Failed,
}

type Start = Box<dyn FnOnce() -> LocalBoxFuture<'static, TaskEnd> + Send>;

/// An actor that runs one task. [`Drain`] stops the task and waits for its end. A drained actor
/// stays alive and idle, because it did not end because of a fault; the actor of a failed task
/// stops.
pub(crate) struct DrainableTask {
    start: Option<Start>,
    stop: CancellationToken,
    finish: Option<watch::Sender<bool>>,
    finished: watch::Receiver<bool>,
}

impl DrainableTask {
    /// Creates an actor that runs the task which `start` returns, on the actor's thread. The task
    /// ends after `stop` is cancelled.
    pub(crate) fn new<F>(
        stop: CancellationToken,
        start: impl FnOnce() -> F + Send + 'static,
    ) -> DrainableTask
    where
        F: Future<Output = TaskEnd> + 'static,
    {
        let (finish, finished) = watch::channel(false);
        DrainableTask {
            start: Some(Box::new(move || Box::pin(start()))),
            stop,
            finish: Some(finish),
            finished,
        }
    }
}

impl Actor for DrainableTask {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (Some(start), Some(finish)) = (self.start.take(), self.finish.take()) else {
            return;
        };
        let task = async move {
            let end = start().await;
            if end == TaskEnd::Drained {
                finish.send_replace(true);
            }
            end
        };
        context.spawn(task.into_actor(self).map(|end, _, context| {
            if end == TaskEnd::Failed {
                context.stop();
            }
        }));
    }
}

impl Handler<Drain> for DrainableTask {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stop.cancel();
        let mut finished = self.finished.clone();
        Box::pin(async move {
            // An error means that the task is gone, so there is nothing left to wait for.
            let _ = finished.wait_for(|finished| *finished).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[actix_web::test]
    async fn drain_waits_for_task() {
        let stop = CancellationToken::new();
        let (release, mut released) = watch::channel(false);
        let stopped = stop.clone();
        let task = DrainableTask::new(stop, move || async move {
            stopped.cancelled().await;
            drop(released.wait_for(|is_released| *is_released).await);
            TaskEnd::Drained
        })
        .start();
        let drain = task.send(Drain);
        tokio::pin!(drain);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut drain).await;
        assert!(early.is_err(), "the task still works");
        release.send_replace(true);
        drain.await.unwrap();
        assert!(task.connected(), "a drained actor did not fail");
    }

    #[actix_web::test]
    async fn failed_task_stops_its_actor() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = DrainableTask::new(stop, move || async move {
            stopped.cancelled().await;
            TaskEnd::Failed
        })
        .start();
        task.send(Drain).await.unwrap();
        let stopping = async {
            while task.connected() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), stopping)
            .await
            .unwrap();
    }
}
