//! The edge from outside: real sockets towards the agent, real TLS towards the upstream, real gRPC towards a control
//! plane that lives in this process and says what the test wants it to say.

mod agent;
mod control;
mod messages;
mod origin;
mod raw;
mod stage;
mod wire;
mod world;

mod answers;
mod authorities;
mod binary;
mod bodies;
mod certificate;
mod decoded;
mod door;
mod eviction;
mod failover;
mod family;
mod floods;
mod framing;
mod fronting;
mod grpc;
mod hold;
mod keys;
mod local;
mod matrix;
mod observed;
mod outage;
mod park;
mod postgres;
mod process;
mod session;
mod signed;
mod streaming;
mod target;
mod trust;
mod tunnel;
mod upgrade;
mod versions;
mod websocket;
