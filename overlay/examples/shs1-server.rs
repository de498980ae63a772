//! Plays the server's part of the secret handshake on stdin and stdout, as the npm package `shs1-test`
//! asks: `shs1-server NETWORK_KEY SECRET_KEY PUBLIC_KEY` (hex).

use std::io::{self, Read as _, Write as _};

use hawsepipe_overlay::keys::NetworkKey;
use hawsepipe_overlay::shs::{AUTH_LEN, Ephemeral, HELLO_LEN, server};
use ssb_crypto::Keypair;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    ssb_crypto::sodium::init().map_err(|()| "libsodium does not start")?;
    let mut arguments = std::env::args().skip(1);
    let network = argument(&mut arguments)?;
    let network = NetworkKey::from_bytes(network.try_into().map_err(|_| "a network key has 32 bytes")?);
    let secret = argument(&mut arguments)?;
    let keypair = Keypair::from_slice(&secret).ok_or("a secret key has 64 bytes")?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());

    let mut hello = [0; HELLO_LEN];
    input.read_exact(&mut hello)?;
    let (hello, handshake) = server::start(&keypair, network, Ephemeral::generate()).receive(&hello)?;
    output.write_all(&hello)?;
    output.flush()?;
    let mut auth = [0; AUTH_LEN];
    input.read_exact(&mut auth)?;
    let (accept, outcome) = handshake.receive(&auth)?.accept();
    output.write_all(&accept)?;
    for key in [&outcome.send, &outcome.receive] {
        output.write_all(key.key())?;
        output.write_all(key.nonce())?;
    }
    Ok(output.flush()?)
}

fn argument(arguments: &mut impl Iterator<Item = String>) -> Result<Vec<u8>, Failure> {
    let text = arguments.next().ok_or("usage: shs1-server NETWORK_KEY SECRET_KEY PUBLIC_KEY (hex)")?;
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
