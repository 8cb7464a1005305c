//! Accepting connections, a bounded number at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

/// What is refused now, for want of file descriptors mostly, is not refused for good.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves each connection that `accept` gives in a task of its own, until the future is dropped. While `most` are served,
/// others wait to be accepted.
pub(crate) async fn each<C, A, S>(
    what: &'static str,
    most: usize,
    accept: impl Fn() -> A,
    serve: impl Fn(C) -> S,
) where
    A: Future<Output = io::Result<C>>,
    S: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(most));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("never closed");
        match accept().await {
            Ok(connection) => {
                let serving = serve(connection);
                tokio::spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "{what}: cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn more_than_fit_wait_until_one_has_gone() {
        let (arrive, arrived) = mpsc::channel::<io::Result<UnixStream>>(8);
        let (tell, mut served) = mpsc::channel(8);
        let arrived = tokio::sync::Mutex::new(arrived);
        let accepting = tokio::spawn(async move {
            let accept = || async { arrived.lock().await.recv().await.expect("open") };
            let serve = |stream: UnixStream| {
                let tell = tell.clone();
                async move {
                    tell.send(()).await.unwrap();
                    // Until the other end goes.
                    stream.readable().await.unwrap();
                }
            };
            each("test", 2, accept, serve).await;
        });
        arrive
            .send(Err(io::Error::other("none left")))
            .await
            .unwrap();
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (near, far) = UnixStream::pair().unwrap();
            arrive.send(Ok(near)).await.unwrap();
            ends.push(far);
        }
        served.recv().await.unwrap();
        served.recv().await.unwrap();
        tokio::task::yield_now().await;
        assert!(served.try_recv().is_err());
        ends.pop();
        ends.pop();
        served.recv().await.unwrap();
        accepting.abort();
    }
}
