//! `countersign seal`.

use std::path::Path;

use bytes::Bytes;
use countersign_proto::v1;
use serde::Serialize;

use crate::args::{Output, Show, Vault};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret};

pub(crate) async fn run(context: &Context, command: Vault) -> Done {
    match command {
        Vault::Status(show) => status(context, &show).await,
        Vault::Unseal { passphrase_file } => unseal(context, passphrase_file.as_deref()).await,
        Vault::Seal => {
            client::connect(context).await?.seal(v1::SealRequest {}).await?;
            print::line("Sealed: nothing is released until `countersign seal unseal`.")
        }
    }
}

/// A vault that a key file opens takes no passphrase: there the administrator's token is what counts.
async fn unseal(context: &Context, passphrase_file: Option<&Path>) -> Done {
    let mut admin = client::connect_to_sealed(context).await?;
    let now = admin.get_seal_status(v1::GetSealStatusRequest {}).await?.into_inner();
    if !now.sealed {
        return print::line("It is open already.");
    }
    let passphrase = match now.provider.as_str() {
        "key-file" => Bytes::new(),
        _ => Bytes::from_owner(secret::read(passphrase_file, "the passphrase")?),
    };
    let sealed = admin
        .unseal(v1::UnsealRequest { passphrase, ..Default::default() })
        .await?
        .into_inner()
        .sealed;
    if sealed {
        return Err(Failure::refused("it is still sealed: see the control plane's log"));
    }
    print::line("Open.")
}

#[derive(Serialize)]
struct Status {
    sealed: bool,
    provider: String,
}

async fn status(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect_to_sealed(context).await?;
    let v1::GetSealStatusResponse { sealed, provider, .. } =
        admin.get_seal_status(v1::GetSealStatusRequest {}).await?.into_inner();
    if show.output == Output::Json {
        return print::json(&Status { sealed, provider });
    }
    let state = if sealed { "sealed" } else { "open" };
    print::facts(&[("vault", state.into()), ("opened by", provider)])
}
