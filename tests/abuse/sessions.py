"""Abuse of lifeline.v1: of HELLO, of what is numbered, of sessions, channels and documents."""

import json
import secrets

import harness
from harness import LIMIT, check, equal
from victim import MIB, Peer, Victim, allow_descriptors, dial, frame, read_status, request

PROTOCOL = "Sec-WebSocket-Protocol: lifeline.v1\r\n"
LAST = 2**53 - 1


class Client(Peer):
    """A peer that speaks lifeline.v1 as it is told."""

    def __init__(self, address, hello=None, **dialing):
        super().__init__(address, headers=PROTOCOL, **dialing)
        self.welcome = None
        if hello is not None:
            self.hello(**hello)

    def hello(self, **fields):
        self.say("H " + json.dumps({"v": 1, **fields}, separators=(",", ":")))

    def say(self, text, binary=False):
        self.send(frame(2 if binary else 1, text if isinstance(text, bytes) else text.encode()))

    def hear(self, *types):
        """The next frame of one of these types; beats are answered, others are passed over."""
        while True:
            got, payload = self.read_frame()
            check(got in (1, 2), f"a frame of type {got} ({payload[:60]!r}) in place of {types}")
            kind = payload.split(b" ", 1)[0].decode()
            if kind == "I":
                self.say("O" + payload.decode()[1:])
            if kind in types:
                return payload

    def enter(self):
        """WELCOME as a dict."""
        self.welcome = json.loads(self.hear("W").split(b" ", 1)[1])
        return self.welcome

    def resume(self, s=0, ch=None):
        return {"resume": {"sid": self.welcome["sid"], "tok": self.welcome["tok"], "s": s, "ch": ch or {}}}


def outbox(**fields):
    return {"outbox": {"id": secrets.token_urlsafe(16), "gen": 1, "first": 1, "next": 1, **fields}}


def each(victim, attacks, hello=None, times=1):
    """Each attack on a connection of its own: `name: (frames, code)`; `hello`: first a session with it.
    How many connections that were."""
    for name, (frames, code) in attacks.items():
        for _ in range(times):
            client = Client(victim.address, hello)
            if hello is not None:
                client.enter()
            try:
                for text in frames:
                    client.say(text)
            except OSError:
                pass  # It is closed before the end.
            equal(client.end(), code, name)
            client.drop()
    victim.wait_gone()
    return len(attacks) * times


def test_bad_hello(_binary):
    """First frames that are no HELLO, or one that asks too much."""
    victim = Victim({"limits": {"handshakeTimeout": 2}}, cpu=30)
    good = {"v": 1}
    attacks = {
        "no frame of the protocol": (["hello"], 4501),
        "an empty message": ([""], 4501),
        "another frame first": (["P 1\nx"], 4501),
        "no JSON": (["H x"], 4501),
        "no object": (["H []"], 4501),
        "JSON that does not end": (['H {"v":1'], 4501),
        "no version": (["H {}"], 4501),
        "another version": (['H {"v":2}'], 4505),
        "a version of text": (['H {"v":"1"}'], 4501),
        "a key twice": (['H {"v":1,"v":1}'], 4501),
        "auth of a number": (['H {"v":1,"auth":7}'], 4501),
        "auth of 200 KiB": ([f'H {{"v":1,"auth":"{"a" * 200_000}"}}'], 4504),
        "resume without a token": ([f'H {json.dumps({**good, "resume": {"sid": "x", "s": 0}})}'], 4501),
        "resume with s -1": ([f'H {json.dumps({**good, "resume": {"sid": "x", "tok": "y", "s": -1}})}'], 4501),
        "resume with s 2^53": ([f'H {json.dumps({**good, "resume": {"sid": "x", "tok": "y", "s": 2**53}})}'], 4501),
        "a sid of 65 letters": ([f'H {json.dumps({**good, "resume": {"sid": "x" * 65, "tok": "y", "s": 0}})}'], 4501),
        "a token with a line end": ([f'H {json.dumps({**good, "resume": {"sid": "x", "tok": "y" + chr(10), "s": 0}})}'], 4501),
        "a channel of 256 bytes": ([f'H {json.dumps({**good, "resume": {"sid": "x", "tok": "y", "s": 0, "ch": {"c" * 256: {"e": "e", "o": 1, "mid": "m"}}}})}'], 4501),
        "an outbox with first beyond next": ([f'H {json.dumps({**good, **outbox(first=5, next=2)})}'], 4501),
        "an outbox with an empty id": ([f'H {json.dumps({**good, **outbox(id="")})}'], 4501),
        "a header of 2 KiB": (["H" + "H" * 2048], 4501),
        "a message of 1 MiB": (["H " + "x" * (MIB - 2)], 4504),
        "binary": ([b"H {}"], 4501),
    }
    count = each(victim, attacks, times=10 if harness.FULL else 2)
    # What nobody knows is ignored, whatever it is; the size of JSON is the bound.
    for unknown in ("[" * 60_000 + "]" * 60_000, "{" + ",".join(f'"k{n}":0' for n in range(9000)) + "}"):
        client = Client(victim.address)
        client.say(f'H {{"v":1,"unknown":{unknown}}}')
        client.enter()
        client.drop()
    # And who says nothing is closed after handshakeTimeout.
    silent = [Client(victim.address) for _ in range(50)]
    for client in silent:
        equal(client.end(), 4501, "no HELLO")
        client.drop()
    victim.wait_gone()
    return victim.finish(f"{count} connections with {len(attacks)} kinds of bad HELLO, 50 with none, each closed with its code", errors=None)


def test_forged_tokens(_binary):
    """Guesses at the token of a session, which goes on untouched; refused credentials."""
    guesses = 20_000 if harness.FULL else 1000
    victim = Victim(cpu=120 if harness.FULL else 30, growth=64 * MIB, auth={"secret": "ann", "other": "eve"})
    owner = Client(victim.address, {"auth": "secret"})
    owner.enter()
    sid, tok = owner.welcome["sid"], owner.welcome["tok"]
    wrong = [tok[:-1] + ("A" if tok[-1] != "A" else "B"), tok[:-1], tok + "A", tok.swapcase(), sid, "A" * len(tok)]
    for n in range(guesses):
        token = wrong[n] if n < len(wrong) else secrets.token_urlsafe(len(tok))[: len(tok)]
        thief = Client(victim.address, {"auth": "secret", "resume": {"sid": sid, "tok": token, "s": 0, "ch": {}}})
        got = thief.enter()
        check(got["sid"] != sid and not got["resumed"], f"guess {n} had the session: {got}")
        thief.drop()
    # The right token in another user's hand is not enough either.
    thief = Client(victim.address, {"auth": "other", "resume": {"sid": sid, "tok": tok, "s": 0, "ch": {}}})
    check(thief.enter()["sid"] != sid, "another user had the session")
    thief.drop()
    for n in range(100):
        stranger = Client(victim.address, {"auth": f"guess {n}"})
        equal(stranger.end(), 4500, "credentials that are refused")
        stranger.drop()
    # Nobody has taken the connection over.
    owner.say("I 7")
    equal(owner.hear("O"), b"O 7", "the owner's beat")
    owner.drop()
    again = Client(victim.address, {"auth": "secret", "resume": {"sid": sid, "tok": tok, "s": 0, "ch": {}}})
    equal((again.enter()["sid"], again.welcome["resumed"]), (sid, True), "the owner comes back")
    again.drop()
    victim.wait_gone()
    return victim.finish(f"{guesses} guesses at a session's token, its token in another user's hand, 100 refused credentials: the owner has it")


def test_numbers(_binary):
    """Acknowledgements, items and ends of what was never sent; integers as they must not be."""
    victim = Victim(cpu=30)
    box = outbox()
    attacks = {
        "A of what was not sent": ([f"A {LAST}"], 4004),
        "A of 2^53": ([f"A {LAST + 1}"], 4501),
        "A of 0": (["A 0"], 4501),
        "A of -1": (["A -1"], 4501),
        "A of 007": (["A 007"], 4501),
        "A of 1e3": (["A 1e3"], 4501),
        "A of 4,000 digits": (["A " + "9" * 4000], 4501),
        "A of nothing": (["A"], 4501),
        "A with two blanks": (["A  1"], 4501),
        "a piggybacked A of what was not sent": ([f"P 1 s={LAST}\nx"], 4004),
        "items that are missing": ([f"P {LAST}\nx"], 4004),
        "a second HELLO": (['H {"v":1}'], 4501),
        "E backwards": (["E 1 from=2"], 4501),
        "S of 256 bytes": (["S " + "c" * 256], 4501),
        "S of a control character": (["S a%0Ab"], 4501),
        "S of invalid UTF-8": (["S a%FFb"], 4501),
        "S of half an escape": (["S a%4"], 4501),
        "S of nothing": (["S"], 4501),
        "a header of 1,025 bytes": (["S " + "%41" * 341 + "aa"], 4501),
        "T without JSON": (["T secret"], 4501),
        "T of 200 KiB": ([f'T {{"auth":"{"a" * 200_000}"}}'], 4504),
        "V of no document's name": (["V  - 0 00000000"], 4501),
        "a CR in a header": (["A 1\r"], 4501),
        "a NUL in a header": (["A 1\0"], 4501),
        "a payload of 1 MiB and a byte": (["P 1\n" + "x" * (MIB + 1)], 4504),
    }
    count = each(victim, attacks, box, times=10 if harness.FULL else 2)
    # Types that nobody knows are ignored, however many.
    client = Client(victim.address, box)
    client.enter()
    client.send(frame(1, b"Q 1 2 3") * 20_000)
    client.say("I 9")
    equal(client.hear("O"), b"O 9", "the answer behind 20,000 unknown frames")
    client.drop()
    victim.wait_gone()
    what = f"{count} connections with {len(attacks)} kinds of wrong numbers and frames, each closed with its code; 20,000 unknown frames ignored"
    return victim.finish(what, errors=None)


def test_replays(_binary):
    """A session with a full ring (1 MiB) that is resumed from its beginning again and again, and never reads the end."""
    rounds = 1000 if harness.FULL else 100
    victim = Victim({"heartbeat": {"interval": 60}}, growth=96 * MIB, cpu=120 if harness.FULL else 30)
    client = Client(victim.address, {}, receive_buffer=4096)
    client.enter()
    client.drop()
    # Its ring is filled while it is there: come back once more for that.
    client = Client(victim.address, client.resume())
    client.enter()
    victim.control.order("fill 1000 900")
    victim.php.wait_event("filled")
    for _ in range(rounds):
        hello = client.resume()
        client.drop()
        client = Client(victim.address, hello, receive_buffer=4096)
        welcome = client.enter()
        check(welcome["resumed"], f"not resumed: {welcome}")
        equal(client.hear("M").split(b"\n")[0].split(b" ")[:2], [b"M", b"1"], "the replay begins at 1")
    # And who reads to the end has all.
    hello = client.resume()
    client.drop()
    client = Client(victim.address, hello)
    client.enter()
    for s in range(1, 901):
        check(client.hear("M").startswith(b"M %d\n" % s), f"message {s}")
    client.drop()
    victim.wait_gone()
    return victim.finish(f"{rounds} replays of 900 KB begun and cut, the last one complete")


def test_session_flood(_binary):
    """Sessions without number, each left at once."""
    count, most = (50_000 if harness.FULL else 3000), 1000
    victim = Victim({"limits": {"maxSessions": most}}, growth=64 * MIB, cpu=200 if harness.FULL else 40, subscribe="c")
    keeper = Client(victim.address, {})
    keeper.enter()
    opened = refused = 0
    for n in range(count):
        client = Client(victim.address, {**outbox(), "resume": {"sid": "none", "tok": "none", "s": 0, "ch": {}}})
        client.enter()
        client.say(f"S c{n}")
        client.hear("K")
        client.drop()
        opened += 1
    # Connected ones are never the ones that go.
    keeper.say("I 1")
    equal(keeper.hear("O"), b"O 1", "the connected session's beat")
    # When all are connected there is no room for another one.
    allow_descriptors(most + 1000)
    crowd = []
    for _ in range(most + 50):
        client = Client(victim.address, {})
        crowd.append(client)
    full = 0
    for client in crowd:
        try:
            client.enter()
        except AssertionError as error:
            check("type 8" in str(error), str(error))
            full += 1
    check(full >= 50, f"{full} of {len(crowd)} were refused with limits.maxSessions {most}")
    for client in crowd:
        client.drop()
    keeper.drop()
    victim.wait_gone()
    return victim.finish(f"{opened} sessions opened and left (limits.maxSessions {most}); with all connected {full} of {len(crowd)} more closed")


def test_subscribe_flood(_binary):
    """Subscriptions beyond limits.maxSubscriptions and .maxChannels, in and out without a pause, and denied ones."""
    count = 100 if harness.FULL else 10
    options = {"limits": {"maxSubscriptions": 128, "maxChannels": 1000}}
    victim = Victim(options, growth=64 * MIB, cpu=200 if harness.FULL else 40, subscribe="open/")
    clients = [Client(victim.address, {}) for _ in range(count)]
    ok = denied = 0
    for number, client in enumerate(clients):
        client.enter()
        for n in range(200):
            client.say(f"S open/{number}/{n}")
        for n in range(200):
            answer = json.loads(client.hear("K")[2:])
            ok, denied = ok + (answer["st"] == "ok"), denied + (answer["st"] == "denied")
    equal((ok, denied), (min(128 * count, 1000), 200 * count - min(128 * count, 1000)), "subscribed, denied")
    # Asking for what is forbidden, and going in and out.
    for client in clients:
        for n in range(500):
            client.say(f"S secret/{n}")
        for n in range(500):
            equal(json.loads(client.hear("K")[2:])["st"], "denied", "a forbidden channel")
    for _ in range(50):
        for number, client in enumerate(clients):
            client.send(frame(1, f"U open/{number}/0".encode()) + frame(1, f"S open/{number}/0".encode()))
    for client in clients:
        client.say("I 3")
        equal(client.hear("O"), b"O 3", "the answer behind it")
        client.drop()
    # Questions to PHP are bounded too: it is blocked while they come. More than may be subscribed to is denied
    # without it; who asks, leaves and asks again is closed.
    victim.block()
    clients = [Client(victim.address, {}) for _ in range(count)]
    for client in clients:
        client.enter()
        client.send(b"".join(frame(1, f"S open/{n}/{'x' * 200}".encode()) for n in range(1000)))
        for n in range(1000 - 128):
            equal(json.loads(client.hear("K")[2:])["st"], "denied", "a channel beyond the limit while PHP is blocked")
    codes = set()
    for client in clients:
        try:
            client.send((frame(1, b"U open/0/" + b"x" * 200) + frame(1, b"S open/0/" + b"x" * 200)) * 500)
        except OSError:
            pass
        codes.add(client.end())
    victim.unblock()
    equal(codes, {4005}, "closed for asking again and again")
    for client in clients:
        client.drop()
    victim.wait_gone()
    what = (
        f"{200 * count} subscriptions: {ok} ok, {denied} denied (128 each, 1000 in all), {500 * count} forbidden ones denied, "
        f"{count} that asked again and again while PHP was blocked closed with 4005"
    )
    return victim.finish(what, errors=None)


def test_document_flood(_binary):
    """Edits of a document: too many keys, too large values, deep ones, and conflicts without an end."""
    edits = 20_000 if harness.FULL else 2000
    keys = 100
    victim = Victim(growth=64 * MIB, cpu=120 if harness.FULL else 30, subscribe="board", document="board", documentOptions={"keys": keys, "bytes": 65536})
    client = Client(victim.address, outbox())
    client.enter()
    client.say("S board")
    client.hear("K")
    q = 0
    codes = {}

    def edit(body):
        nonlocal q
        q += 1
        client.say(f"P {q}\n" if body is None else f"D {q}\n{body}")
        while True:
            got = client.hear("N", "A", "M")
            if got.startswith(b"N"):
                code = json.loads(got[2:])["code"]
                codes[code] = codes.get(code, 0) + 1
                return code
            if got.startswith(b"A") and int(got[2:]) >= q:
                return 0

    def named(**fields):
        return json.dumps({"ch": "board", "id": secrets.token_urlsafe(16)[:22], **fields})

    equal(edit(named(k="title", v="x" * 100_000)), 413, "a value of 100 KB")
    equal(edit(named(k="k" * 256, v=1)), 400, "a key of 256 bytes")
    equal(edit(named(k="", v=1)), 400, "a key of nothing")
    equal(edit(named(k="title", v=1, id="short id!")), 400, "an id that is none")
    equal(edit(f'{{"ch":"board","id":"{secrets.token_urlsafe(16)}","k":"deep","v":{"[" * 500}{"]" * 500}}}'), 400, "500 deep")
    equal(edit("no JSON"), 400, "no JSON")
    equal(edit(named(k="title", v=1, ch="nowhere") .replace('"board"', '"nowhere"')), 403, "another channel")
    taken = 0
    for n in range(edits):
        code = edit(named(k=f"key{n}", v="v" * 100))
        taken += code == 0
        check(code in (0, 413), f"edit {n}: {code}")
    check(taken <= keys, f"{taken} keys of {keys}")
    for n in range(edits // 2):
        code = edit(named(k="key0", v=n, **{"if": 10**9, "e": "none"}))
        equal(code, 409, "an edit of what is not there")
    # States are asked for again and again.
    for n in range(edits):
        client.say("V board - 0 00000000")
        client.hear("V")
    client.drop()
    victim.wait_gone()
    return victim.finish(f"{q} edits: {taken} taken, refused by code {codes}; the state asked for {edits} times", errors=None)


def test_unacknowledged(_binary):
    """A client that sends more items than the window allows while PHP is blocked, and one that goes over."""
    victim = Victim({"limits": {"inbound": 65536}}, growth=48 * MIB, cpu=30)
    victim.block()
    clients = []
    for _ in range(50):
        client = Client(victim.address, outbox(next=5001))
        client.enter()
        try:
            client.send(b"".join(frame(1, b"P %d\n" % q + b"x" * 1000) for q in range(1, 5001)))
        except OSError:
            pass
        clients.append(client)
    codes = {client.end() for client in clients}
    equal(codes, {4004}, "closed for more than twice the window")
    victim.unblock()
    for client in clients:
        client.drop()
    victim.wait_gone()
    return victim.finish("50 clients with 5 MB each in a window of 64 KiB, PHP blocked: each closed with 4004", errors=None)


def test_hello_while_php_is_blocked(_binary):
    """HELLOs that wait for onAuth while PHP is blocked: bounded, and over after authTimeout."""
    count = 2000 if harness.FULL else 500
    allow_descriptors(count + 500)
    victim = Victim({"limits": {"authTimeout": 2}}, growth=64 * MIB, cpu=30, auth={"secret": "ann"})
    victim.block()
    clients = [Client(victim.address, {"auth": "a" * 10_000}) for _ in range(count)]
    codes = {}
    for client in clients:
        code = client.end()
        codes[code] = codes.get(code, 0) + 1
        client.drop()
    victim.unblock()
    check(None not in codes, f"ended without a code: {codes}")
    victim.wait_gone()
    return victim.finish(f"{count} HELLOs with 10 KB of credentials while PHP was blocked, closed by code {codes}", errors=None)
