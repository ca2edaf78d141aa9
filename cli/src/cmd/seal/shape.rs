//! What a seal is to be made of: from words to the message.

use std::path::Path;

use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::seal_parameters::Provider as Made;

use crate::args::{Provider, Shape};
use crate::failure::Failure;
use crate::secret;

/// None when nothing was said. A passphrase is read from the file, else from standard input.
///
/// # Errors
/// `Usage` when words of another provider were given, or the shares do not suffice.
pub(crate) fn parameters(
    shape: Shape,
    passphrase_file: Option<&Path>,
) -> Result<Option<v1::SealParameters>, Failure> {
    foreign(&shape, passphrase_file)?;
    let made = match shape.seal {
        None => return Ok(None),
        // Which file and which token, the node's configuration says, and nobody from afar.
        Some(Provider::KeyFile) => Made::KeyFile(v1::KeyFileSeal::default()),
        Some(Provider::Passphrase) => {
            let passphrase = secret::read_new(passphrase_file, "the passphrase")?;
            Made::Passphrase(v1::PassphraseSeal { passphrase: Bytes::from_owner(passphrase) })
        }
        Some(Provider::Pkcs11) => Made::Pkcs11(v1::Pkcs11Seal::default()),
        Some(Provider::Shamir) => Made::Shamir(shamir(shape.threshold, shape.recipients)?),
    };
    Ok(Some(v1::SealParameters { provider: Some(made) }))
}

fn shamir(threshold: Option<u32>, recipients: Vec<String>) -> Result<v1::ShamirSeal, Failure> {
    let threshold = threshold.unwrap_or_default();
    let (needed, shares) = (threshold as usize, recipients.len());
    if needed < 2 || needed > shares {
        return Err(Failure::Usage(format!(
            "{needed} of {shares} shares cannot open a vault: give a --recipient for each share, and a --threshold from 2 to their number"
        )));
    }
    if let Some(other) = recipients.iter().find(|recipient| !recipient.starts_with("age1")) {
        return Err(Failure::Usage(format!(
            "{other:?} is not an age recipient (age1…): `age-keygen` makes a key, and prints its recipient"
        )));
    }
    Ok(v1::ShamirSeal { threshold, recipients })
}

/// Words that belong to another provider are a mistake, not to be passed over.
fn foreign(shape: &Shape, passphrase_file: Option<&Path>) -> Result<(), Failure> {
    let given = [
        ("--threshold", shape.threshold.is_some(), Provider::Shamir),
        ("--recipient", !shape.recipients.is_empty(), Provider::Shamir),
        ("a passphrase file", passphrase_file.is_some(), Provider::Passphrase),
    ];
    let wrong = given.iter().find(|(_, given, of)| *given && shape.seal != Some(*of));
    wrong.map_or(Ok(()), |(name, _, of)| {
        use clap::ValueEnum as _;
        let of = of.to_possible_value().map(|value| value.get_name().to_owned());
        Err(Failure::Usage(format!("{name} is of --seal {}", of.unwrap_or_default())))
    })
}
