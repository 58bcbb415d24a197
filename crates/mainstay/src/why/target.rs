//! The object in question: `sts/web`, or `sts web`.

use clap::error::{Error, ErrorKind};
use planners::diagnosis::TargetKind;

/// A kind and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyTarget {
    /// The kind of the object.
    pub kind: TargetKind,
    /// The object's name.
    pub name: String,
}

impl WhyTarget {
    /// Reads one word with a slash, or two.
    ///
    /// # Errors
    /// A mistake in the command line, with the allowed forms.
    pub fn parse(words: &[String]) -> Result<Self, Error> {
        let (kind, name) = match words {
            [one] => one.split_once('/').ok_or_else(|| {
                mistake(format!(
                    "{one:?} is not of the form KIND/NAME; for example: mainstay why sts/{one}; \
                     mainstay why alone lists all that waits"
                ))
            })?,
            [kind, name] => (kind.as_str(), name.as_str()),
            _ => {
                return Err(mistake(
                    "one object at a time: KIND/NAME or KIND NAME".to_owned(),
                ));
            }
        };
        if name.is_empty() || name.contains('/') {
            return Err(mistake(format!(
                "{name:?} is not a valid name; give KIND/NAME or KIND NAME"
            )));
        }
        Ok(Self {
            kind: find_kind(kind)?,
            name: name.to_owned(),
        })
    }
}

fn find_kind(word: &str) -> Result<TargetKind, Error> {
    TargetKind::called(word).ok_or_else(|| {
        let all = TargetKind::ALL.map(TargetKind::short).join(", ");
        mistake(format!(
            "kind {word:?} cannot be asked about; allowed, also by their long names: {all}"
        ))
    })
}

fn mistake(text: String) -> Error {
    Error::raw(ErrorKind::InvalidValue, text + "\n")
}
