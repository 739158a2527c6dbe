#!/usr/bin/env python3
"""What guests may not do to the files of the host: give them rights by extended attributes, pass by
their POSIX ACLs, or take for their own what belongs to somebody without a name in the sandbox.

usage: tests/hostile/permission_test.py --skep FILE --engine NAME

The guest is this file again, with --guest.
"""

import argparse
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile

USER = 1000
PYTHON = "/usr/bin/python3"  # that an ordinary user may execute
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 2, 0, 0, 0)  # CAP_DAC_READ_SEARCH, effective
UNDEFINED = 0xffffffff
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OPEN_TO_ALL = acl((USER_OBJ, 6, UNDEFINED), (GROUP_OBJ, 6, UNDEFINED), (OTHER, 6, UNDEFINED))
ATTACKS = {"security.capability": CAPABILITY, "security.other": b"1", "trusted.other": b"1",
           "system.posix_acl_access": OPEN_TO_ALL, "system.posix_acl_default": OPEN_TO_ALL}


def attempt(function, *arguments):
    """The name of the error, or "done"."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def become_user():
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def guest_attributes(volume):
    """As root of the sandbox, with all of its capabilities, then as a user."""
    for who in ("root", "user"):
        if who == "user":
            become_user()
        for name in ("roots", "users", "directory"):
            path = os.path.join(volume, name)
            for attribute, value in ATTACKS.items():
                print(who, name, "set", attribute, attempt(os.setxattr, path, attribute, value))
            print(who, name, "remove", "security.capability",
                  attempt(os.removexattr, path, "security.capability"))
    print("canary", attempt(os.setxattr, os.path.join(volume, "users"), "user.canary", b"1"))


def guest_overlay(path):
    """In the overlay, where nothing reaches the host, root of the sandbox may, a user may not."""
    print("root", attempt(os.setxattr, path, "security.capability", CAPABILITY))
    print("kept", attempt(os.getxattr, path, "security.capability"))
    become_user()
    print("user", attempt(os.setxattr, path, "security.capability", CAPABILITY))
    print("acl", attempt(os.setxattr, path, "system.posix_acl_access", OPEN_TO_ALL))


def guest_acl(volume):
    become_user()
    for name in ("denied", "allowed", "masked"):
        path = os.path.join(volume, name)
        print(name, attempt(lambda: open(path, "rb").close()))


def guest_nobody(path):
    def change():
        with open(path, "ab") as file:
            file.write(b"mine")
    print("write", attempt(change))
    print("chmod", attempt(os.chmod, path, 0o777))
    own = tempfile.NamedTemporaryFile(delete=False)
    own.close()
    os.chmod(own.name, 0o600)
    print("own", attempt(lambda: open(own.name, "ab").close()))


def run(options, arguments, guest, *paths, launcher=()):
    command = [*launcher, options.skep, f"--platform={options.engine}", "do", *arguments, "--",
               PYTHON, options.script, "--guest", guest, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {guest}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"FAILED: {what}: got {got}, want {wanted}")


def attributes_of(path):
    return sorted(os.listxattr(path))


def test_attributes(options, scratch):
    volume = os.path.join(scratch, "volume")
    os.mkdir(volume)
    for name, owner in (("roots", 0), ("users", USER), ("directory", USER)):
        path = os.path.join(volume, name)
        if name == "directory":
            os.mkdir(path)
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write("text")
        os.chown(path, owner, owner)
        os.chmod(path, 0o600)
    os.chmod(os.path.join(volume, "roots"), 0o600)
    secured = os.path.join(volume, "users")
    os.setxattr(secured, "security.capability", CAPABILITY)
    lines = run(options, ["--volume", f"{volume}:/mnt"], "attributes", "/mnt")
    attacks = [line for line in lines if not line.startswith("canary")]
    expect("number of attacks", len(attacks), 2 * 3 * (len(ATTACKS) + 1))
    done = [line for line in attacks if line.endswith(" done")]
    expect("attacks that were carried out", done, [])
    # The detector sees what does reach the host.
    expect("canary", lines[-1], "canary done")
    expect("the user's file", attributes_of(secured), ["security.capability", "user.canary"])
    expect("root's file", attributes_of(os.path.join(volume, "roots")), [])
    expect("the directory", attributes_of(os.path.join(volume, "directory")), [])
    expect("mode", os.stat(os.path.join(volume, "roots")).st_mode & 0o777, 0o600)
    print(f"{len(attacks)} attributes did not reach the host")


def test_overlay(options, scratch):
    path = os.path.join(scratch, "program")
    shutil.copy("/bin/true", path)
    os.chmod(path, 0o755)
    lines = run(options, [], "overlay", path)
    expect("in the overlay", lines, ["root done", "kept done", "user EPERM", "acl ENOTSUP"])
    expect("the host's file", attributes_of(path), [])


def test_acls(options, scratch):
    volume = os.path.join(scratch, "acls")
    os.mkdir(volume)
    os.chmod(volume, 0o755)
    # The mode of all three is 0644 or 0640: it alone would say the contrary.
    named = {"denied": (0, 4, 4), "allowed": (4, 4, 0), "masked": (4, 0, 0)}
    for name, (user, mask, other) in named.items():
        path = os.path.join(volume, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write("text")
        value = acl((USER_OBJ, 6, UNDEFINED), (NAMED_USER, user, USER),
                    (GROUP_OBJ, 4, UNDEFINED), (MASK, mask, UNDEFINED), (OTHER, other, UNDEFINED))
        try:
            os.setxattr(path, "system.posix_acl_access", value)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                print("no ACLs on this host's file system")
                return
            raise
    for arguments in (["--volume", f"{volume}:/mnt"], []):
        where = "/mnt" if arguments else volume
        lines = run(options, arguments, "acl", where)
        expect("ACLs", lines, ["denied EACCES", "allowed done", "masked EACCES"])


def test_nobody(options, scratch):
    """A host user whose id is the overflow id: root's files are shown as his."""
    path = os.path.join(scratch, "roots_file")
    with open(path, "w", encoding="utf-8") as file:
        file.write("text")
    os.chmod(path, 0o644)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    probe = subprocess.run([*nobody, "unshare", "-U", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        print("no user namespaces for ordinary users here")
        return
    lines = run(options, [], "nobody", path, launcher=nobody)
    expect("nobody", lines, ["write EACCES", "chmod EPERM", "own done"])


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "--guest":
        guests = {"attributes": guest_attributes, "overlay": guest_overlay, "acl": guest_acl,
                  "nobody": guest_nobody}
        guests[sys.argv[2]](sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--engine", default="notify")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes files of other users")
    with tempfile.TemporaryDirectory(prefix="skep-permission.") as scratch:
        os.chmod(scratch, 0o755)
        options.script = os.path.join(scratch, "guest.py")
        shutil.copy(__file__, options.script)
        test_attributes(options, scratch)
        test_overlay(options, scratch)
        test_acls(options, scratch)
        test_nobody(options, scratch)


if __name__ == "__main__":
    main()
