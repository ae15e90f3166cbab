//! Questions to the person at the terminal: passphrases, words, yes or no.
//!
//! Nothing is ever asked when stdin is not a terminal: the command is refused with the flag that
//! answers the question.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::PassphraseArgs;
use super::secret::Secret;
use crate::agent::control::{ErrorCode, Failure};

/// The variable that names a passphrase file when the flag does not.
pub const PASSPHRASE_FILE_ENV: &str = "BTCR2_AGENT_PASSPHRASE_FILE";

/// Longest first line of a secret's file, in bytes: 24 words of any BIP-39 list fit four times.
const MAX_SECRET_BYTES: u64 = 4096;

/// The passphrase of a new keystore; `None` when the user wants none.
pub fn new_passphrase(
    args: &PassphraseArgs,
    no_passphrase: bool,
) -> Result<Option<Secret>, Failure> {
    if no_passphrase {
        return Ok(None);
    }
    if let Some(path) = passphrase_file(args) {
        return read_passphrase(&path).map(Some);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            ErrorCode::PassphraseNeeded,
            "a new keystore needs a passphrase, and there is no terminal to ask on",
        )
        .remedy("give --passphrase-file FILE, or --no-passphrase to leave the key unprotected"));
    }
    let first = prompt("New passphrase: ")?;
    if first.reveal().is_empty() {
        return Err(
            Failure::new(ErrorCode::PassphraseNeeded, "the passphrase is empty")
                .remedy("type one, or use --no-passphrase to leave the key unprotected"),
        );
    }
    let second = prompt("The same again: ")?;
    if first.reveal() == second.reveal() {
        Ok(Some(first))
    } else {
        Err(
            Failure::new(ErrorCode::WrongPassphrase, "the two passphrases differ")
                .remedy("try again; nothing was written"),
        )
    }
}

/// The passphrase of an encrypted keystore.
pub fn passphrase(args: &PassphraseArgs) -> Result<Secret, Failure> {
    if let Some(path) = passphrase_file(args) {
        return read_passphrase(&path);
    }
    if io::stdin().is_terminal() {
        return prompt("Passphrase: ");
    }
    Err(Failure::new(
        ErrorCode::PassphraseNeeded,
        "the keystore is locked, and there is no terminal to ask for its passphrase",
    )
    .remedy(format!(
        "give --passphrase-file FILE or set {PASSPHRASE_FILE_ENV}"
    )))
}

/// A secret to import: from a file, from the terminal without echo, or from a pipe.
pub fn imported(file: Option<&Path>, what: &str) -> Result<Secret, Failure> {
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => read_secret_file(path, what),
        None if io::stdin().is_terminal() => {
            let secret = prompt(&format!("{what} (not shown): "))?;
            refuse_empty(secret, what)
        }
        None => {
            let secret = first_line(io::stdin().lock())
                .map_err(|error| unreadable(Path::new("stdin"), what, &error))?;
            refuse_empty(secret, what)
        }
    }
}

/// Asks a question that only `y` or `yes` affirms.
pub fn confirm(question: &str, flag: &str, declined: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            ErrorCode::ConfirmationNeeded,
            "this needs a yes, and there is no terminal to ask on",
        )
        .remedy(format!("add {flag} to do it without being asked")));
    }
    let answer =
        answer(question, &mut io::stdin().lock(), &mut io::stderr().lock()).map_err(|error| {
            Failure::new(
                ErrorCode::Io,
                format!("the answer can not be read: {error}"),
            )
        })?;
    if answer {
        Ok(())
    } else {
        Err(Failure::new(ErrorCode::Declined, declined))
    }
}

/// Shows recovery words once, on the terminal behind stderr. Returns whether there is one.
pub fn show_words(words: &Secret) -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    if !stderr.is_terminal() {
        return Ok(false);
    }
    writeln!(
        stderr,
        "\nRecovery words. Write them down now; they are not shown again:\n"
    )?;
    write_words(words, &mut stderr)?;
    writeln!(
        stderr,
        "\nThey restore the identity, seats, DID keys and SMT nonces. Signed updates and proofs are\n\
         in the home directory: back that up as well.\n"
    )?;
    Ok(true)
}

/// Numbered words, four in a row.
fn write_words(words: &Secret, out: &mut impl io::Write) -> io::Result<()> {
    for (index, word) in words.reveal().split_whitespace().enumerate() {
        let end = if index % 4 == 3 { "\n" } else { "" };
        write!(out, "  {:>2}. {word:<12}{end}", index + 1)?;
    }
    writeln!(out)
}

fn answer(
    question: &str,
    input: &mut impl io::BufRead,
    output: &mut impl io::Write,
) -> io::Result<bool> {
    write!(output, "{question} [y/N] ")?;
    output.flush()?;
    let mut line = Vec::new();
    input.take(64).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn prompt(text: &str) -> Result<Secret, Failure> {
    rpassword::prompt_password(text)
        .map(Secret::from)
        .map_err(|error| {
            Failure::new(
                ErrorCode::PassphraseNeeded,
                format!("the terminal can not be read: {error}"),
            )
        })
}

fn passphrase_file(args: &PassphraseArgs) -> Option<PathBuf> {
    args.passphrase_file.clone().or_else(|| {
        std::env::var_os(PASSPHRASE_FILE_ENV)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    })
}

fn read_passphrase(path: &Path) -> Result<Secret, Failure> {
    read_secret_file(path, "passphrase")
}

/// The first line of a file. A file that others may read is used, with a warning.
fn read_secret_file(path: &Path, what: &str) -> Result<Secret, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::open(path).map_err(|error| unreadable(path, what, &error))?;
    if file
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 != 0)
    {
        tracing::warn!(
            file = %path.display(),
            "other users may read this file with a secret: chmod 600 it"
        );
    }
    let secret =
        first_line(io::BufReader::new(file)).map_err(|error| unreadable(path, what, &error))?;
    refuse_empty(secret, what)
}

fn first_line(reader: impl io::BufRead) -> io::Result<Secret> {
    // The room for the longest line at once: growing would leave copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES as usize));
    reader.take(MAX_SECRET_BYTES).read_until(b'\n', &mut line)?;
    if line.len() as u64 == MAX_SECRET_BYTES {
        return Err(io::Error::other(format!(
            "its first line is longer than {MAX_SECRET_BYTES} bytes"
        )));
    }
    let text = std::str::from_utf8(&line).map_err(|_| io::Error::other("it is not UTF-8"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    Ok(Secret::from(text.to_owned()))
}

fn refuse_empty(secret: Secret, what: &str) -> Result<Secret, Failure> {
    if secret.reveal().trim().is_empty() {
        Err(Failure::new(
            ErrorCode::InvalidValue,
            format!("the {what} is empty"),
        ))
    } else {
        Ok(secret)
    }
}

fn unreadable(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(
        ErrorCode::Io,
        format!(
            "the {what} can not be read from {}: {error}",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (typed, expected) in [
            ("y\n", true),
            ("YES\n", true),
            (" yes \r\n", true),
            ("\n", false),
            ("", false),
            ("yess\n", false),
            ("no\ny\n", false),
        ] {
            let mut shown = Vec::new();
            assert_eq!(
                answer("Join?", &mut typed.as_bytes(), &mut shown).unwrap(),
                expected,
                "{typed:?}"
            );
            assert_eq!(shown, b"Join? [y/N] ");
        }
    }

    #[test]
    fn a_passphrase_is_the_first_line_as_it_is() {
        let secret = first_line(&b" with spaces \r\nsecond"[..]).unwrap();
        assert_eq!(secret.reveal(), " with spaces ");
        assert!(first_line(&[0xff, b'\n'][..]).is_err());
        assert!(first_line(&[b'a'; 5000][..]).is_err());
        assert!(refuse_empty(first_line(&b"\n"[..]).unwrap(), "passphrase").is_err());
    }

    #[test]
    fn words_are_numbered_in_rows_of_four() {
        let mut out = Vec::new();
        write_words(&Secret::from("a bb c d e".to_owned()), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "   1. a              2. bb             3. c              4. d           \n   5. e           \n"
        );
    }
}
