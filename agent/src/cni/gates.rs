//! `readiness_gates`: URLs that have to answer before a container is attached, such as the health of a programme that its
//! traffic needs.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use margay_api::cni::{CniError, code};
use tokio::net::TcpStream;

use super::budget::Budget;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take, as the established plugin has it.
const ANSWER: Duration = Duration::from_secs(5);

/// A URL that answers 200 when whatever is behind it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    url: Uri,
    /// Host and port, as they are connected to.
    at: String,
}

/// What a configuration lists.
pub(super) fn parse(urls: &[String]) -> Result<Vec<Gate>, CniError> {
    let gate = |text: &String| {
        Gate::parse(text).ok_or_else(|| {
            let msg = format!(
                "readiness_gates has {text:?}, must be a URL such as \"http://127.0.0.1:9099/readiness\""
            );
            CniError::new(code::INVALID_CONFIG, msg)
        })
    };
    urls.iter().map(gate).collect()
}

/// Waits until each has answered.
pub(super) async fn pass(gates: &[Gate], budget: Budget) -> Result<(), CniError> {
    for gate in gates {
        let late = format!("readiness gate {} does not answer 200", gate.url);
        let open = async {
            while !gate.is_open().await {
                tokio::time::sleep(PAUSE).await;
            }
        };
        budget.within(&late, open).await?;
    }
    Ok(())
}

impl Gate {
    fn parse(text: &str) -> Option<Self> {
        let url: Uri = text.parse().ok()?;
        let authority = url.authority().filter(|at| !at.as_str().contains('@'))?;
        let at = format!(
            "{}:{}",
            authority.host(),
            authority.port_u16().unwrap_or(80)
        );
        (url.scheme_str() == Some("http")).then_some(Self { url, at })
    }

    async fn is_open(&self) -> bool {
        let asked = tokio::time::timeout(ANSWER, self.ask()).await;
        matches!(asked, Ok(Ok(StatusCode::OK)))
    }

    async fn ask(&self) -> anyhow::Result<StatusCode> {
        let stream = TcpStream::connect(&self.at).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        let connection = tokio::spawn(connection);
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, self.at.as_str())
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await;
        connection.abort();
        Ok(answer?.status())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_gate_opens_once_its_url_answers_200() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready?for=cni", listener.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            for status in ["503 Service Unavailable", "204 No Content", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 500];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /ready?for=cni HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let gates = parse(&[url]).unwrap();
        pass(&gates, Budget::begin(60)).await.unwrap();
        answering.await.unwrap();
        // Nobody listens there any more.
        let error = pass(&gates, Budget::begin(0)).await.unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN_LATER);
        assert!(
            error.msg.contains("/ready?for=cni does not answer 200"),
            "{}",
            error.msg
        );
    }

    #[test]
    fn only_urls_of_http_are_gates() {
        let gates = parse(&["http://localhost/x".into(), "http://[::1]:9099".into()]).unwrap();
        assert_eq!(gates[0].at, "localhost:80");
        assert_eq!(gates[1].at, "[::1]:9099");
        for bad in [
            "",
            "/x",
            "https://localhost/x",
            "http://",
            "http://a@b/",
            "ftp://a/",
        ] {
            let error = parse(&[bad.to_owned()]).unwrap_err();
            assert!(error.msg.contains("must be a URL"), "{bad}: {}", error.msg);
        }
    }
}
