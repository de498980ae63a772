//! Making the kernel forget its connections, as a router does that was switched off and on.
//!
//! One message of the kernel's own protocol for its connection table (`conntrack -F` sends the same), so that
//! the laboratory needs no further program.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// A netlink header and the header that all netfilter subsystems share.
const REQUEST: usize = 20;

/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`: without saying which, all of them.
const DELETE: u16 = 1 << 8 | 2;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const ANSWER_ME: u16 = 1 | 4;

/// `NLMSG_ERROR`, which is also how the kernel says that all is well.
const OUTCOME: u16 = 2;

/// Empties the connection table of the calling thread's host.
///
/// # Panics
/// When the kernel has no such table, or will not.
pub(super) fn forget() {
    emptied().unwrap_or_else(|e| panic!("the kernel's connection table cannot be emptied: {e}"));
}

fn emptied() -> io::Result<()> {
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut request = Vec::with_capacity(REQUEST);
    request.extend((REQUEST as u32).to_ne_bytes());
    request.extend(DELETE.to_ne_bytes());
    request.extend(ANSWER_ME.to_ne_bytes());
    // Number, sender, and a netfilter header of zeros: all families.
    request.resize(REQUEST, 0);
    sendto(kernel.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match outcome(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("an answer to something else")),
    }
}

/// Zero, or minus the error.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == OUTCOME).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_answer_is_an_outcome_or_something_else() {
        assert_eq!(outcome(&answer(OUTCOME, 0)), Some(0));
        assert_eq!(outcome(&answer(OUTCOME, -1)), Some(-1));
        assert_eq!(outcome(&answer(DELETE, 0)), None);
        assert_eq!(outcome(&answer(OUTCOME, 0)[..18]), None);
    }
}
