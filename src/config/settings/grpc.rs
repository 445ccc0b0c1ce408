//! Settings of the gRPC APIs.

use clap::Args;

use crate::config::values::port;

/// Settings of the gRPC APIs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "gRPC")]
pub struct GrpcSettings {
    /// Whether odds, wallet and bets also listen for gRPC
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub grpc: bool,
    /// Odds: gRPC; 0 picks a free port. If the default port is busy, the role starts without gRPC
    #[arg(long, env, default_value_t = 50_051, value_parser = port)]
    pub grpc_port_odds: u16,
    /// Wallet: gRPC; 0 picks a free port. If the default port is busy, the role starts without gRPC
    #[arg(long, env, default_value_t = 50_052, value_parser = port)]
    pub grpc_port_wallet: u16,
    /// Bets: gRPC; 0 picks a free port. If the default port is busy, the role starts without gRPC
    #[arg(long, env, default_value_t = 50_053, value_parser = port)]
    pub grpc_port_bets: u16,
    /// Whether clients may list the gRPC services and their messages (server reflection). On by
    /// default while BIND_ADDRESS is a loopback address
    #[arg(long, env)]
    pub grpc_reflection: Option<bool>,
}
