//! `countersign mcp`: for an agent's model, over standard input and output, what its gateway knows of its approvals.
//!
//! It holds the agent's proxy URL and nothing else, and only ever looks: no tool decides, and the gateway takes no
//! decision from an agent either.

mod tools;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ErrorData, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, ServiceExt as _};

use crate::args::Mcp;
use crate::failure::{Done, Failure};
use crate::gateway::Gateway;
use crate::variable;

const INSTRUCTIONS: &str = "Some of this agent's HTTP requests are held by a gateway until a person approves them. These \
    tools tell which of them wait, why, and when they are decided. Nothing can be approved or denied here: only people \
    can, elsewhere. A request that was answered with 503 and the code approval_pending was not carried out: wait for its \
    approval, then repeat the identical request, unless the answer says that it is parked.";

/// Serves until standard input ends.
pub(crate) async fn run(command: &Mcp) -> Done {
    let gateway = gateway(command.proxy.as_deref())?;
    let failed =
        |why: &dyn std::fmt::Display| Failure::Refused(format!("the MCP session failed: {why}"));
    let serving = Server { gateway }.serve(rmcp::transport::stdio()).await;
    let serving = serving.map_err(|why| failed(&why))?;
    serving.waiting().await.map(drop).map_err(|why| failed(&why))
}

/// From where agents have it: the command, our variable, or those of every other tool.
fn gateway(proxy: Option<&str>) -> Result<Gateway, Failure> {
    if let Some(url) = proxy {
        return Gateway::parse(url, "--proxy");
    }
    for name in ["COUNTERSIGN_PROXY", "HTTPS_PROXY", "https_proxy"] {
        if let Some(url) = variable(name) {
            return Gateway::parse(&url, name);
        }
    }
    Err(Failure::usage(
        "no gateway is known here: set HTTPS_PROXY or COUNTERSIGN_PROXY to the agent's http://NAME:TOKEN@HOST:PORT, or give --proxy",
    ))
}

struct Server {
    gateway: Gateway,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("countersign", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        tools::call(&self.gateway, &request.name, &arguments).await.map(Into::into)
    }
}
