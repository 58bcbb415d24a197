//! The object of `mainstay why`: `sts/web`, or `sts web`.

use clap::error::Error;
use diagnosis::TargetKind;

use super::mistake;

/// An object of any kind, as the user typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObject {
    pub kind: String,
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

    /// The kind, if `diagnosis` has rules for it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(words: &[&str]) -> Result<(TargetKind, String), Error> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let named = NamedObject::parse(&words)?;
        let kind = named.target_kind().ok_or_else(|| named.unknown_kind())?;
        Ok((kind, named.name))
    }

    #[test]
    fn the_object_is_named_in_one_word_or_two() {
        for (words, kind) in [
            (["sts/web", ""], TargetKind::StatefulSet),
            (["StatefulSets", "web"], TargetKind::StatefulSet),
            (["statefulset.apps/web", ""], TargetKind::StatefulSet),
            (["po/web", ""], TargetKind::Pod),
            (["pods", "web"], TargetKind::Pod),
            (["persistentvolumeclaim", "web"], TargetKind::Claim),
            (["deploy/web", ""], TargetKind::Deployment),
            (["deployments.v1.apps", "web"], TargetKind::Deployment),
            (["svc/web", ""], TargetKind::Service),
            (["no", "web"], TargetKind::Node),
            (["horizontalpodautoscaler", "web"], TargetKind::Autoscaler),
            (["csr/web", ""], TargetKind::SigningRequest),
        ] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let expected = (kind, "web".to_owned());
            assert_eq!(target(&words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn a_mistake_is_answered_with_what_is_allowed() {
        for (words, message) in [
            (&["web"][..], "for example: mainstay why sts/web"),
            (
                &["secret/web"],
                "allowed, also by their long names: cs, node,",
            ),
            (&["deploy.batch/web"], "cannot be asked about"),
            (&["sts/"], "give KIND/NAME or KIND NAME"),
            (&["sts", "a/b"], "give KIND/NAME or KIND NAME"),
        ] {
            let error = target(words).unwrap_err();
            assert!(error.to_string().contains(message), "{words:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
