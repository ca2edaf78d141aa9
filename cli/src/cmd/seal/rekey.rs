//! `countersign seal rekey`: begin, show what opens the vault now, take the new shares, show that the new seal opens it.
//! Nothing changes before the last of these.

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::Bytes;
use countersign_proto::v1;
use serde::Serialize;

use super::shares::{Share, SharesDir, keep_shares, told_shares};
use super::{asked, parameters, progress};
use crate::args::{Output, Provider, Rekey, Step};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret};

pub(super) async fn run(context: &Context, command: Rekey) -> Done {
    let Rekey { shape, new_passphrase_file, shares_dir, rekey_id, step, .. } = command;
    let Rekey { share_files, passphrase_file, show, .. } = command;
    let new = shape.seal;
    if rekey_id.is_none() && new.is_none() {
        return Err(Failure::usage(
            "nothing was done: say what is to open the vault, with --seal, or which rekey to go on with, with --rekey-id",
        ));
    }
    if new == Some(Provider::Shamir)
        && !step.start
        && shares_dir.is_none()
        && show.output == Output::Table
    {
        return Err(Failure::usage(
            "nothing was done: the encrypted shares are shown once; say where they go with --shares-dir, or ask for -o json",
        ));
    }
    let resumed = rekey_id.is_some();
    let to = parameters(shape, new_passphrase_file.as_deref())?;
    let shares_dir = shares_dir.as_deref().map(SharesDir::take).transpose()?;
    let (one, provider) = open_node(context).await?;
    let mut walk = Walk {
        admin: client::connect(&one).await?,
        addr: (context.nodes.len() > 1).then(|| one.nodes.to_string()),
        table: show.output == Output::Table,
        alone: step.authorize || step.verify,
        files: share_files.into(),
        passphrase_file,
        ask_first: false,
        reached: Reached::default(),
    };
    walk.reached.rekey_id = match rekey_id {
        Some(rekey_id) => rekey_id,
        None => walk.start(to).await?,
    };
    match step {
        Step { start: true, .. } => walk.says_how_to_go_on("--authorize")?,
        Step { cancel: true, .. } => walk.cancel().await?,
        Step { authorize: true, .. } => drop(walk.authorize(&provider, shares_dir).await?),
        Step { verify: true, .. } => walk.verify(None).await?,
        Step { .. } => {
            walk.ask_first = resumed && provider == "shamir";
            if walk.authorize(&provider, shares_dir).await? {
                // What was said to be the new passphrase is shown to be it, from where it came.
                walk.files.clear();
                walk.passphrase_file = new_passphrase_file;
                let shares = (!walk.reached.shares.is_empty()).then_some(Provider::Shamir);
                walk.verify(new.or(shares)).await?;
            }
        }
    }
    if walk.table { Ok(()) } else { print::json(&walk.reached) }
}

/// The first node that answers and is open: a rekey is known to the node that it was begun at, and to no other.
async fn open_node(context: &Context) -> Result<(Context, String), Failure> {
    let mut failed = Failure::refused("nothing was done: the vault is sealed; unseal it first");
    for one in context.each() {
        match asked(&one).await {
            Ok(answer) if !answer.sealed => return Ok((one, answer.provider)),
            Ok(_) => {}
            Err(failure) => failed = failure,
        }
    }
    Err(failed)
}

struct Walk {
    admin: Admin,
    /// Of the node that knows this rekey, where there are several.
    addr: Option<String>,
    table: bool,
    /// One step was asked for: what it takes may come from standard input.
    alone: bool,
    files: VecDeque<PathBuf>,
    passphrase_file: Option<PathBuf>,
    /// Nobody knows here how far it has come: that is asked before anybody is asked for a share.
    ask_first: bool,
    reached: Reached,
}

/// How far it has come.
#[derive(Default, Serialize)]
struct Reached {
    rekey_id: String,
    step: &'static str,
    needed: u32,
    given: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shares: Vec<Share>,
}

/// What every share begins with, in whatever capitals it was typed.
const SHARE: &[u8] = b"cs-share-";

/// What shows that one may: nothing, where a key file or a module does.
enum Words {
    Nothing,
    Passphrase(Bytes),
    Share(Bytes),
}

impl Walk {
    async fn start(&mut self, to: Option<v1::SealParameters>) -> Result<String, Failure> {
        let request = v1::StartRekeyRequest { request_id: client::request_id(), to };
        let answer = self.admin.start_rekey(request).await?.into_inner();
        self.reached.step = "authorize";
        self.reached.needed = answer.needed;
        self.says(&format!("Rekey {} has begun: nothing has changed yet.", answer.rekey_id))?;
        Ok(answer.rekey_id)
    }

    /// Whether the seal in force was shown to be open to us; false when there was nobody to ask any more.
    async fn authorize(
        &mut self,
        provider: &str,
        shares_dir: Option<SharesDir>,
    ) -> Result<bool, Failure> {
        loop {
            let words = match provider {
                "shamir" if std::mem::take(&mut self.ask_first) => Some(Words::Nothing),
                "shamir" => self.share("a share of the seal in force")?,
                "passphrase" => self.passphrase("the passphrase in force")?,
                _ => Some(Words::Nothing),
            };
            let Some(words) = words else {
                self.says_how_to_go_on("--authorize")?;
                return Ok(false);
            };
            let mut request = v1::AuthorizeRekeyRequest {
                rekey_id: self.reached.rekey_id.clone(),
                ..Default::default()
            };
            match words {
                Words::Nothing => {}
                Words::Passphrase(passphrase) => request.passphrase = passphrase,
                Words::Share(share) => request.share = share,
            }
            let answer = self.admin.authorize_rekey(request).await?.into_inner();
            self.step("authorize", answer.needed, answer.given);
            if answer.authorized {
                self.reached.step = "verify";
                self.reached.shares = keep_shares(answer.shares, shares_dir)?;
                self.says_authorized()?;
                return Ok(true);
            }
            self.says(&format!("Authorised by {}.", self.progress()))?;
            if self.alone && self.files.is_empty() {
                self.says_how_to_go_on("--authorize")?;
                return Ok(false);
            }
        }
    }

    /// `new` is what is to open the vault, if that is known here.
    async fn verify(&mut self, new: Option<Provider>) -> Done {
        loop {
            let words = match new {
                Some(Provider::Shamir) => self.share("a new share")?,
                Some(Provider::Passphrase) => self.passphrase("the new passphrase")?,
                Some(Provider::KeyFile | Provider::Pkcs11) => Some(Words::Nothing),
                None => self.anything()?,
            };
            let Some(words) = words else { return self.says_how_to_go_on("--verify") };
            let mut request = v1::VerifyRekeyRequest {
                rekey_id: self.reached.rekey_id.clone(),
                ..Default::default()
            };
            match words {
                Words::Nothing => {}
                Words::Passphrase(passphrase) => request.passphrase = passphrase,
                Words::Share(share) => request.share = share,
            }
            let answer = self.admin.verify_rekey(request).await?.into_inner();
            self.step("verify", answer.needed, answer.given);
            if answer.complete {
                self.reached.step = "complete";
                return self.says(
                    "The new seal is in force: what opened the vault before opens it no more.",
                );
            }
            self.says(&format!("Verified by {}.", self.progress()))?;
            if self.alone && self.files.is_empty() {
                return self.says_how_to_go_on("--verify");
            }
        }
    }

    async fn cancel(&mut self) -> Done {
        let rekey_id = self.reached.rekey_id.clone();
        self.admin.cancel_rekey(v1::CancelRekeyRequest { rekey_id }).await?;
        self.reached.step = "cancelled";
        self.says("Cancelled: everything is as it was.")
    }

    /// The next file; else one that is typed, or piped into a step of its own. None when there is none.
    fn share(&mut self, what: &str) -> Result<Option<Words>, Failure> {
        let file = self.files.pop_front();
        if file.is_none() && !self.alone && !secret::can_ask() {
            return Ok(None);
        }
        let share = secret::read(file.as_deref(), what)?;
        Ok(Some(Words::Share(Bytes::from_owner(share))))
    }

    fn passphrase(&self, what: &str) -> Result<Option<Words>, Failure> {
        if self.passphrase_file.is_none() && !self.alone && !secret::can_ask() {
            return Ok(None);
        }
        let passphrase = secret::read(self.passphrase_file.as_deref(), what)?;
        Ok(Some(Words::Passphrase(Bytes::from_owner(passphrase))))
    }

    /// For a verification by itself: only the node knows of what kind the new seal is, and the form of what is given
    /// says what it is.
    fn anything(&mut self) -> Result<Option<Words>, Failure> {
        if !self.files.is_empty() {
            return self.share("a new share");
        }
        if self.passphrase_file.is_some() {
            return self.passphrase("the new passphrase");
        }
        if !self.alone && !secret::can_ask() {
            return Ok(None);
        }
        const WHAT: &str = "a new share, or the new passphrase; nothing for a key file or a module";
        let Some(given) = secret::read_any(WHAT)? else { return Ok(Some(Words::Nothing)) };
        let is_share = given.to_ascii_lowercase().starts_with(SHARE);
        let given = Bytes::from_owner(given);
        Ok(Some(if is_share { Words::Share(given) } else { Words::Passphrase(given) }))
    }

    fn step(&mut self, step: &'static str, needed: u32, given: Vec<u32>) {
        self.reached.step = step;
        self.reached.needed = needed;
        self.reached.given = given;
    }

    fn progress(&self) -> String {
        progress(&self.reached.given, self.reached.needed)
    }

    fn says(&self, what: &str) -> Done {
        if self.table { print::line(what) } else { Ok(()) }
    }

    fn says_authorized(&self) -> Done {
        self.says("Authorised: what opens the vault now was shown.")?;
        if !self.table || self.reached.shares.is_empty() {
            return Ok(());
        }
        told_shares(&self.reached.shares)?;
        self.says("Whoever it is for opens theirs with `age --decrypt --identity FILE`, and keeps what is in it.")
    }

    fn says_how_to_go_on(&self, step: &str) -> Done {
        let node = self.addr.as_ref().map(|addr| format!(" --node {addr}"));
        self.says(&format!(
            "Go on with: countersign seal rekey --rekey-id {} {step}{}",
            self.reached.rekey_id,
            node.unwrap_or_default()
        ))
    }
}
