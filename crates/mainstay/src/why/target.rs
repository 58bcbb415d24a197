//! The object in question: `sts/web`, or `sts web`.

use clap::error::{Error, ErrorKind};
use diagnosis::TargetKind;

/// A kind and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyTarget {
    /// The kind of the object.
    pub kind: TargetKind,
    /// The object's name.
    pub name: String,
}

/// An object of any kind, in the words of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObject {
    /// The name of the kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
}

impl NamedObject {
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
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The kind, if it has answers of its own.
    pub fn target_kind(&self) -> Option<TargetKind> {
        TargetKind::called(&self.kind)
    }

    /// The error for a kind that does not exist.
    pub fn unknown_kind(&self) -> Error {
        let all = TargetKind::ALL.map(TargetKind::short).join(", ");
        mistake(format!(
            "kind {:?} cannot be asked about; allowed, also by their long names: {all}, and the kinds that the server \
             has besides",
            self.kind
        ))
    }
}

fn mistake(text: String) -> Error {
    Error::raw(ErrorKind::InvalidValue, text + "\n")
}
