//! Plays the client's part of the secret handshake on stdin and stdout, as the npm package `shs1-test`
//! asks: `shs1-client NETWORK_KEY SERVER_KEY` (hex).

use std::io::{self, Read as _, Write as _};

use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::shs::{ACCEPT_LEN, Ephemeral, HELLO_LEN, client};
use ssb_crypto::Keypair;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    ssb_crypto::sodium::init().map_err(|()| "libsodium does not start")?;
    let mut arguments = std::env::args().skip(1);
    let network = NetworkKey::from_bytes(argument(&mut arguments)?);
    let server = PublicKey::from_bytes(argument(&mut arguments)?);
    let keypair = Keypair::generate();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());

    let (hello, handshake) = client::start(&keypair, network, server, Ephemeral::generate());
    output.write_all(&hello)?;
    output.flush()?;
    let mut hello = [0; HELLO_LEN];
    input.read_exact(&mut hello)?;
    let (auth, handshake) = handshake.receive(&hello)?;
    output.write_all(&auth)?;
    output.flush()?;
    let mut accept = [0; ACCEPT_LEN];
    input.read_exact(&mut accept)?;
    let outcome = handshake.receive(&accept)?;
    for key in [&outcome.send, &outcome.receive] {
        output.write_all(key.key())?;
        output.write_all(key.nonce())?;
    }
    Ok(output.flush()?)
}

fn argument(arguments: &mut impl Iterator<Item = String>) -> Result<[u8; 32], Failure> {
    let text = arguments.next().ok_or("usage: shs1-client NETWORK_KEY SERVER_KEY (hex)")?;
    let digits = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(Failure::from));
    let bytes = digits.collect::<Result<Vec<u8>, _>>()?;
    Ok(bytes.try_into().map_err(|_| "a key has 32 bytes")?)
}
