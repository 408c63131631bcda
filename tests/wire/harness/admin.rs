//! The admin listener, asked in HTTP/1.1 byte by byte.

use std::net::SocketAddr;

use serde_json::Value;

use super::{Answer, Client, Gateway};

/// `[admin]` at a port that the system chooses.
pub fn admin_table(more: &str) -> String {
    format!("[admin]\naddress = \"127.0.0.1:0\"\n{more}\n")
}

/// The admin listener of a gateway, over TCP.
pub struct Api {
    pub address: SocketAddr,
    pub token: Option<String>,
}

impl Api {
    pub fn of(gateway: &Gateway) -> Self {
        let url = gateway.admin();
        let address = url.strip_prefix("http://").and_then(|address| address.parse().ok());
        Self { address: address.unwrap_or_else(|| panic!("{url}")), token: None }
    }

    pub fn head(&self, method: &str, path: &str, fields: &str) -> String {
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{token}{fields}\r\n", self.address)
    }

    /// The answer to bytes as they are.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = Client::clear(self.address).await;
        client.send(bytes).await;
        client.answer().await
    }

    pub async fn try_get(&self, path: &str) -> Answer {
        self.raw(self.head("GET", path, "")).await
    }

    /// Fails the test unless the answer is a 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> impl Future<Output = Value> {
        let asked = self.try_get(path);
        async move {
            let answer = asked.await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            json(&answer)
        }
    }

    pub async fn try_send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        self.raw(self.head(method, path, &fields) + &body).await
    }

    /// Fails the test unless the answer is a 200.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_send(method, path, body).await;
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        json(&answer)
    }
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

impl Answer {
    /// Fails unless it is an error of the API's with this status and code.
    #[track_caller]
    pub fn assert_api_error(&self, status: u16, code: &str) {
        let value = json(self);
        assert_eq!((self.status, value["error"]["code"].as_str()), (status, Some(code)), "{value}");
        assert!(value["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    }
}
