//! Keeps the edge's certificate from ending, over the session's own connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use countersign_proto::v1 as pb;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use tonic::transport::Channel;

use super::Control;
use crate::identity::Stored;

const PATIENCE: Duration = Duration::from_secs(10);
/// Between tries, and never more often than this.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Edges that are all asked at once do not all answer at once.
const SPREAD: Duration = Duration::from_secs(1);

/// Renews the certificate when two thirds of its life are over or the control plane asks for it, as long as the session
/// lasts.
pub(super) async fn keep_renewed(control: &Arc<Control>, channel: Channel) -> Infallible {
    let mut client = GatewayServiceClient::new(channel);
    loop {
        let due_ms = control.passport.renew_from_ms();
        // Edges that were enrolled together are not renewed together.
        let life_left_ms = control.passport.until_ms().saturating_sub(due_ms);
        let jitter_ms = (life_left_ms as f64 * rand::random_range(0.0..0.1)) as u64;
        tokio::select! {
            () = control.clock.wall_reached(due_ms.saturating_add(jitter_ms)) => {}
            () = asked(control) => tokio::time::sleep(SPREAD.mul_f64(rand::random())).await,
        }
        let asked = control.renewal_asked.send_replace(false);
        if let Err(why) = renew(control, &mut client).await {
            tracing::warn!(why = format!("{why:#}"), "this edge's certificate was not renewed yet");
            if asked {
                control.renewal_asked.send_replace(true);
            }
        }
        let pause_ms = TRY_AGAIN.mul_f64(rand::random_range(0.8..1.2)).as_millis() as u64;
        control.clock.reached(control.clock.boottime_ms() + pause_ms).await;
    }
}

async fn asked(control: &Control) {
    // The other half lives as long as this one.
    let _ = control.renewal_asked.subscribe().wait_for(|asked| *asked).await;
}

async fn renew(
    control: &Arc<Control>,
    client: &mut GatewayServiceClient<Channel>,
) -> anyhow::Result<()> {
    let csr_pem = control.passport.request()?;
    let asked = client.renew_certificate(pb::RenewCertificateRequest { csr_pem });
    let answer = tokio::time::timeout(PATIENCE, asked).await.context("no answer")??.into_inner();
    // A file is written: not on the threads that serve.
    let (renewing, wall_ms) = (Arc::clone(control), control.clock.wall_ms());
    let renewed = tokio::task::spawn_blocking(move || {
        renewing.passport.renew(answer.certificate_pem, wall_ms)
    });
    let stored = renewed.await.context("a panic while it was stored")??;
    let until_ms = control.passport.until_ms();
    control.metrics.certificate_until.set(i64::try_from(until_ms / 1_000).unwrap_or(i64::MAX));
    match stored {
        Stored::Written => tracing::info!(until_ms, "this edge's certificate was renewed"),
        Stored::Kept(why) => tracing::warn!(
            until_ms,
            why,
            "this edge's certificate was renewed, and is in memory only: once the one on disk has ended, a restarted \
             edge has to be enrolled again"
        ),
    }
    Ok(())
}
