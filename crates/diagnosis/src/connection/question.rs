//! The connection in question: `--to pod/db-0:5432`, `--to svc/db:postgres`, `--to svc/dns:53/UDP`.

use service_routing::Protocol;

use crate::kinds::TargetKind;

/// A mistake in the words of a destination, with the allowed forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DestinationError(String);

/// The server of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    Pod,
    Service,
}

/// A port by its number or its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortWord {
    Number(u16),
    Name(String),
}

/// The destination of a connection, as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub kind: ServerKind,
    pub name: String,
    pub port: PortWord,
    pub protocol: Protocol,
}

impl Destination {
    /// Reads `KIND/NAME:PORT`, with `/PROTOCOL` for others than TCP.
    ///
    /// # Errors
    /// The word has another form.
    pub fn parse(word: &str) -> Result<Self, DestinationError> {
        let form = || {
            DestinationError(format!(
                "--to {word:?} is not of the form KIND/NAME:PORT[/PROTOCOL]; for example: --to \
                 pod/db-0:5432, --to svc/db:5432, --to svc/dns:53/UDP"
            ))
        };
        let (kind, rest) = word.split_once('/').ok_or_else(form)?;
        let (name, port) = rest.split_once(':').ok_or_else(form)?;
        let (port, protocol) = match port.split_once('/') {
            Some((port, protocol)) => (port, protocol.to_uppercase()),
            None => (port, "TCP".to_owned()),
        };
        if name.is_empty() || name.contains('/') || port.is_empty() {
            return Err(form());
        }
        let kind = match TargetKind::called(kind) {
            Some(TargetKind::Pod) => ServerKind::Pod,
            Some(TargetKind::Service) => ServerKind::Service,
            _ => {
                return Err(DestinationError(format!(
                    "--to leads to a pod or a svc, not to {kind:?}"
                )));
            }
        };
        let protocol = Protocol::of(Some(&protocol)).ok_or_else(|| {
            DestinationError(format!(
                "{protocol:?} is none of the protocols TCP, UDP and SCTP"
            ))
        })?;
        Ok(Self {
            kind,
            name: name.to_owned(),
            port: port_word(port)?,
            protocol,
        })
    }
}

fn port_word(text: &str) -> Result<PortWord, DestinationError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(PortWord::Name(text.to_owned()));
    }
    match text.parse() {
        Ok(number) if number > 0 => Ok(PortWord::Number(number)),
        _ => Err(DestinationError(format!("{text} is no port: 1 to 65535"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_or_refused() {
        let read = |word: &str| {
            let read = Destination::parse(word).unwrap();
            (read.kind, read.name, read.port, read.protocol)
        };
        let number = PortWord::Number;
        assert_eq!(
            read("pod/db-0:5432"),
            (
                ServerKind::Pod,
                "db-0".to_owned(),
                number(5432),
                Protocol::Tcp
            )
        );
        assert_eq!(
            read("service/dns:53/udp"),
            (
                ServerKind::Service,
                "dns".to_owned(),
                number(53),
                Protocol::Udp
            )
        );
        let named = PortWord::Name("http".to_owned());
        assert_eq!(read("svc/web:http").2, named);
        for wrong in [
            "db:5432",
            "pod/db",
            "pod/:80",
            "pod/db:",
            "pod/db:0",
            "pod/db:65536",
            "pod/db:80/ICMP",
            "sts/db:80",
            "pod/a/b:80",
        ] {
            assert!(Destination::parse(wrong).is_err(), "{wrong}");
        }
    }
}
