//! Signs tokens with the credentials that AWS's own chain finds: environment, profile files, web identity (EKS),
//! containers (ECS), instance metadata (EC2).
//!
//! The only file that names AWS's crates and tokio, whose executor runs on the helper thread and only while a token is
//! being made. HTTP goes through ureq, which is here anyway, instead of hyper and what comes with it: it blocks, and
//! there is nothing else to do on that thread.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_rds::auth_token::{AuthTokenGenerator, Config};
use aws_sdk_rds::config::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{
    http_client_fn, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use tokio::runtime::{Builder, Runtime};

use super::{IamLogin, Signed};
use crate::auth::iam::TOKEN_LIFETIME;
use crate::auth::Password;

/// For one request to whoever has the credentials, where AWS's settings say nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer of those. Credentials are some kilobytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Signs tokens.
#[derive(Debug, Default)]
pub(super) struct Signer(Option<Aws>);

/// What is made when the first token is asked for.
#[derive(Debug)]
struct Aws {
    runtime: Runtime,
    sdk: SdkConfig,
}

impl Signer {
    /// A token for this login. Errors: there are no credentials; why, in AWS's words.
    pub(super) fn sign(&mut self, login: &IamLogin) -> Result<Signed, String> {
        let Aws { runtime, sdk } = match &mut self.0 {
            Some(aws) => aws,
            none => none.insert(Aws::new(&login.region)?),
        };
        runtime.block_on(sign(sdk, login))
    }
}

impl Aws {
    fn new(region: &str) -> Result<Self, String> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        // Where web identities are asked about: as the environment says, or where the server is.
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(Region::new(region.to_owned()));
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .http_client(http_client());
        let sdk = runtime.block_on(loader.load());
        Ok(Self { runtime, sdk })
    }
}

async fn sign(sdk: &SdkConfig, login: &IamLogin) -> Result<Signed, String> {
    let provider = sdk
        .credentials_provider()
        .ok_or("no credentials of AWS are configured")?;
    let credentials = provider.provide_credentials().await;
    let credentials = credentials.map_err(|error| chain(&error))?;
    let expiry = credentials.expiry();
    let config = Config::builder()
        .hostname(&login.host)
        .port(login.port.into())
        .username(encoded(&login.user))
        .region(Region::new(login.region.clone()))
        .credentials(SharedCredentialsProvider::new(credentials))
        .expires_in(TOKEN_LIFETIME.as_secs())
        .build()
        .map_err(|error| chain(&*error))?;
    let token = AuthTokenGenerator::new(config).auth_token(sdk).await;
    let token = token.map_err(|error| chain(&*error))?;
    Ok(Signed {
        token: Password::new(token.as_str()),
        lasts: expiry.map(|expiry| expiry.duration_since(now()).unwrap_or_default()),
    })
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A user's name as it stands in a URL's query; the generator takes it as it is.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[expect(
    clippy::disallowed_methods,
    reason = "credentials expire by the calendar"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Requests by ureq.
#[derive(Debug)]
struct Connector(ureq::Agent);

fn http_client() -> SharedHttpClient {
    http_client_fn(|settings: &HttpConnectorSettings, _| {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(settings.connect_timeout().or(Some(PATIENCE)))
            .timeout_global(settings.read_timeout().or(Some(PATIENCE)))
            .http_status_as_error(false) // the SDK looks at it
            .max_redirects(0)
            .build();
        SharedHttpConnector::new(Connector(agent.into()))
    })
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(self.run(request))
    }
}

impl Connector {
    fn run(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: Box<dyn Error + Send + Sync>| ConnectorError::user(error);
        let request = request
            .try_into_http1x()
            .map_err(|error| user(error.into()))?;
        let (head, body) = request.into_parts();
        let body = body
            .bytes()
            .ok_or_else(|| user("a request as a stream".into()))?;
        let request = ureq::http::Request::from_parts(head, body);
        let (head, mut body) = self.0.run(request).map_err(failure)?.into_parts();
        let body = body
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(failure)?;
        let status =
            StatusCode::try_from(head.status.as_u16()).map_err(|error| user(error.into()))?;
        let mut response = HttpResponse::new(status, body.into());
        for (name, value) in &head.headers {
            if let Ok(value) = value.to_str() {
                response
                    .headers_mut()
                    .append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

fn failure(error: ureq::Error) -> ConnectorError {
    match error {
        ureq::Error::Timeout(_) => ConnectorError::timeout(error.into()),
        _ => ConnectorError::io(error.into()),
    }
}
