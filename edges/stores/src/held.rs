//! A connection that is made when it is used, and anew after trouble.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::shared::remote::Trouble;

/// What takes longer is given up with its connection.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// A connection, or nothing as long as nobody has used it.
#[derive(Debug)]
pub(crate) struct Held<C>(Mutex<Option<C>>);

impl<C> Default for Held<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> Held<C> {
    /// Does something on the connection; after trouble the next one who does connects anew.
    pub(crate) async fn with<T>(
        &self,
        connect: impl Future<Output = Result<C, Trouble>>,
        work: impl AsyncFnOnce(&mut C) -> Result<T, Trouble>,
    ) -> Result<T, String> {
        let mut held = self.0.lock().await;
        let done = timeout(REQUEST_MAX, async {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => connect.await?,
            };
            let done = work(&mut connection).await?;
            Ok::<_, Trouble>((connection, done))
        });
        match done.await {
            Ok(Ok((connection, done))) => {
                *held = Some(connection);
                Ok(done)
            }
            Ok(Err(trouble)) => Err(trouble.0),
            Err(_) => Err("it does not answer".into()),
        }
    }
}
