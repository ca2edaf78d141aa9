//! The sixth planted fault: a released request that got no answer is sent once more.

use countersign_gate::{Destination, Outbound, Sent};
use http::Response;

use super::connection::{self, NotAnswered};
use super::silence::Over;
use super::{BoxBody, Failure, Upstream, prepare, receive};

impl Upstream {
    pub(super) async fn write_twice(
        &self,
        outbound: Outbound,
        destination: Destination,
    ) -> Result<Response<BoxBody>, Failure> {
        let sent = outbound.into_parts();
        let copy = Sent {
            method: sent.method.clone(),
            uri: sent.uri.clone(),
            headers: sent.headers.clone(),
            payload: sent.payload.clone(),
        };
        let mut last = Failure::Unknown { why: "nothing was tried".into() };
        for sent in [sent, copy] {
            let (head, body) = prepare(sent, None)?;
            let (body, progress) = connection::watched(body);
            let connection = self.dialler.dial(&destination).await?;
            let answered = connection
                .exchange(head.map(|()| body), &destination, &progress, self.manner(true))
                .await;
            last = match answered {
                Ok((answer, connection)) => {
                    let over = Over { connection, shelf: None };
                    return receive(answer, over, self.response_header_timeout);
                }
                Err(NotAnswered::Unwritten(_, why)) => return Err(Failure::NotSent { why }),
                Err(NotAnswered::Written(why)) => Failure::Unknown { why },
            };
        }
        Err(last)
    }
}
