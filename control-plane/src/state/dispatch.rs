//! The list of commands: which file carries each of them out.

use super::audit::Entry;
use super::{
    Actor, Command, Done, Event, Refused, State, Vote, VoteWord, Voter, audit, lease, name,
};

impl State {
    pub(super) fn carry_out(&mut self, actor: &Actor, command: &Command) -> Result<Done, Refused> {
        if self.genesis.is_none()
            && !matches!(command, Command::Genesis(_) | Command::Note { .. } | Command::Tick)
        {
            return Err(Refused::Precondition(
                "this cluster has not begun yet: the genesis comes first".into(),
            ));
        }
        match self.put_aside(actor, command)? {
            Some(aside) => Ok(aside),
            None => self.carry_out_at_once(actor, command),
        }
    }

    /// Whether a second administrator is needed was asked before.
    pub(super) fn carry_out_at_once(
        &mut self,
        actor: &Actor,
        command: &Command,
    ) -> Result<Done, Refused> {
        match command {
            Command::Genesis(genesis) => self.begin(genesis),

            Command::AddPrincipal { name, roles, groups, token_sha256 } => {
                self.add_principal(actor, name, roles, groups, token_sha256)
            }
            Command::RotatePrincipal { name, token_sha256 } => {
                self.rotate_principal(actor, name, token_sha256)
            }
            Command::RemovePrincipal { name } => self.remove_principal(actor, name),
            Command::SetGroups { name, groups } => self.set_groups(actor, name, groups),
            Command::SetAway { name, until, stand_in, reason } => {
                let away = until.map(|until| (until, stand_in.as_deref(), reason.as_str()));
                self.set_away(actor, name, away)
            }
            Command::OfferLink { platform, code_sha256 } => {
                self.offer_link(actor, platform, code_sha256)
            }
            Command::LinkAccount { code_sha256, account } => {
                self.link_account(actor, code_sha256, account)
            }
            Command::UnlinkAccount { principal, account } => {
                self.unlink_account(actor, principal, account)
            }
            Command::ConfirmChange { id } => self.confirm_change(actor, *id),
            Command::RejectChange { id, reason } => self.reject_change(actor, *id, reason),

            Command::SetChannel(channel) => self.set_channel(actor, channel),
            Command::ResealChannel { name, former_sha256, secrets } => {
                self.reseal_channel(actor, name, former_sha256, secrets)
            }
            Command::RemoveChannel { name } => self.remove_channel(actor, name),
            Command::TestChannel { channel, to } => self.test_channel(actor, channel, to),
            Command::AttemptDelivery { delivery, handle, place, whole } => {
                self.attempt_delivery(actor, *delivery, handle, place, *whole)
            }
            Command::Delivered { handle, place, message, rendered_sha256, face } => {
                self.delivered(actor, handle, place, message, rendered_sha256, face)
            }
            Command::NotDelivered { delivery, why, not_before, for_good } => {
                self.not_delivered(actor, *delivery, why, *not_before, *for_good)
            }
            Command::Faced { delivery, face, why_not } => {
                self.faced(actor, *delivery, face, why_not)
            }
            Command::Tap(tap) => self.tap(actor, tap),
            Command::WrongCode { account } => self.wrong_code(actor, account),
            Command::SetCursor { channel, cursor } => self.set_cursor(actor, channel, cursor),

            Command::CreateAgent { id, name, owner, token_sha256 } => {
                self.create_agent(actor, id, name, owner.as_deref(), token_sha256)
            }
            Command::RotateAgent { name, token_sha256 } => {
                self.rotate_agent(actor, name, token_sha256)
            }
            Command::RevokeAgent { name } => self.revoke_agent(actor, name),
            Command::SetOwner { agent, owner } => self.set_owner(actor, agent, owner.as_deref()),

            Command::CreateCredential(credential) => self.create_credential(actor, credential),
            Command::RotateCredential { name, expected_version, payload } => {
                self.rotate_credential(actor, name, *expected_version, payload)
            }
            Command::ResealCredential { id, version, former_sha256, payload } => {
                self.reseal_credential(actor, id, *version, former_sha256, payload)
            }
            Command::RevokeCredential { name } => self.revoke_credential(actor, name),
            Command::BeginMint { id, version, attempt } => {
                self.begin_mint(actor, id, *version, *attempt)
            }
            Command::KeepToken(token) => self.keep_token(actor, token),
            Command::FailMint { id, version, attempt, why, for_good } => {
                self.fail_mint(actor, id, *version, *attempt, why, *for_good)
            }

            Command::SetPolicy { text, sha256, expected_version, narrows: _ } => {
                self.set_policy(actor, text, sha256, *expected_version)
            }

            Command::EnrollEdge { id, name, key_sha256 } => {
                self.enroll_edge(actor, id, name, key_sha256)
            }
            Command::AttachEdge { id, incarnation } => self.attach_edge(actor, id, incarnation),
            Command::RenewEdge { id } => self.renew_edge(actor, id),
            Command::EvictEdge { name, reason } => self.evict_edge(actor, name, reason),
            Command::RotateEdgeCa { number, certificate_pem, key } => {
                self.rotate_edge_ca(actor, *number, certificate_pem, key)
            }
            Command::FinishEdgeCa => self.finish_edge_ca(actor),

            Command::InviteNode { name, token_sha256 } => {
                self.invite_node(actor, name, token_sha256)
            }
            Command::JoinNode { token_sha256, node } => self.join_node(actor, token_sha256, node),
            Command::DescribeNode { id, addresses } => self.describe_node(actor, *id, addresses),
            Command::AddNodeKey { id, public_key, by_former } => {
                self.add_node_key(actor, *id, public_key, by_former)
            }
            Command::RotateCa { to, number, certificate_pem, bridge_pem, key } => {
                self.rotate_ca(actor, *to, *number, certificate_pem, bridge_pem, key)
            }
            Command::RenewNode { id, to, number } => self.renew_node(actor, *id, *to, *number),
            Command::FinishCa { to } => self.finish_ca(actor, *to),
            Command::RemoveNode { id, reason } => self.remove_node(actor, *id, reason),
            Command::SetTrust(signed) => self.set_trust(actor, signed),
            Command::SetSeal { seal_file, former_sha256, what } => {
                self.set_seal(actor, seal_file, former_sha256, what)
            }
            Command::SuspectClock { by_ms } => self.suspect_clock(actor, *by_ms),
            Command::ConfirmClock => self.confirm_clock(actor),
            Command::Checkpoint { .. } => self.checkpoint(actor),
            Command::CheckpointAudit(checkpoint) => self.checkpoint_audit(actor, checkpoint),

            Command::Open(open) => self.open(actor, open),
            Command::Vote {
                approval,
                by,
                word,
                channel,
                reason,
                intent_digest,
                strength,
                proof,
                breaks_glass,
            } => {
                let vote = Vote {
                    principal: self.voter(by)?,
                    word: *word,
                    channel: name::clipped(channel, name::CHANNEL_BYTES),
                    reason: name::clipped(reason, name::REASON_BYTES),
                    at: self.log_time,
                    withdrawn: false,
                    strength: *strength,
                    proof: *proof,
                    breaks_glass: *breaks_glass && *word == VoteWord::Approve,
                };
                self.vote(actor, *approval, vote, intent_digest.as_ref())
            }
            Command::AskGrant(wish) => self.ask_grant(actor, wish),
            Command::SupportGrant { id, principal, channel, reason, strength, proof } => {
                let vote = Vote {
                    principal: principal.clone(),
                    word: VoteWord::Approve,
                    channel: name::clipped(channel, name::CHANNEL_BYTES),
                    reason: name::clipped(reason, name::REASON_BYTES),
                    at: self.log_time,
                    withdrawn: false,
                    strength: *strength,
                    proof: *proof,
                    breaks_glass: false,
                };
                self.support_grant(actor, *id, vote)
            }
            Command::RevokeGrant { id, reason } => self.revoke_grant(actor, *id, reason),
            Command::Cancel { approval, reason } => self.cancel(actor, *approval, reason),
            Command::Detach { request_id, reason } => self.detach(actor, request_id, reason),
            Command::Claim { request_id, decision_id, policy_version } => {
                self.claim(actor, request_id, decision_id, *policy_version)
            }
            Command::Report { request_id, outcome, status } => {
                self.report(actor, request_id, *outcome, *status)
            }
            Command::Revoke { approval, reason } => self.revoke(actor, *approval, reason),

            Command::Lease { id, edge, incarnation, credential, version, agent, ttl_ms } => {
                let loan = lease::Loan {
                    id,
                    edge,
                    incarnation,
                    credential,
                    version: *version,
                    agent,
                    ttl_ms: *ttl_ms,
                };
                self.lease(actor, &loan)
            }

            Command::Tick => self.tick(actor),
            Command::Note { action, .. } if audit::is_own(action) => {
                Err(Refused::Invalid(format!(
                    "nothing was noted: \"{action}\" is said by the command of that name alone"
                )))
            }
            Command::Note { action, subject, details } => Ok(Done::changed(
                Event::Noted,
                Entry {
                    action: action.clone(),
                    subject: subject.clone(),
                    details: details.clone(),
                },
            )),
        }
    }
}

/// Refused votes and claims are what an auditor looks for first.
pub(super) fn worth_a_record(command: &Command, refused: &Refused) -> Option<Entry> {
    match command {
        Command::Vote { approval, by, word, channel, .. } => Some(
            Entry::new("vote.refused", approval)
                .with(
                    "principal",
                    match by {
                        Voter::Account(account) => format!("account {account}"),
                        Voter::Principal(name) => name::clipped(name, name::REASON_BYTES),
                    },
                )
                .with("word", word)
                .with("channel", name::clipped(channel, name::CHANNEL_BYTES))
                .with("why", refused),
        ),
        Command::Tap(tap) => Some(
            Entry::new("vote.refused", hex::encode(tap.handle))
                .with("principal", format!("account {}", tap.account))
                .with("word", tap.word)
                .with("channel", name::clipped(&tap.channel, name::CHANNEL_BYTES))
                .with("why", refused),
        ),
        Command::Claim { request_id, decision_id, policy_version } => Some(
            Entry::new("claim.refused", hex::encode(request_id))
                .with("decision", hex::encode(decision_id))
                .with("policy_version", policy_version)
                .with("why", refused),
        ),
        _ => None,
    }
}
