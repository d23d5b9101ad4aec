# debian_docs_test.py: extraction, splitting and the whole program of scripts/corpora/debian_docs, on packages made here
# with dpkg-deb; nothing is downloaded. Skipped (77) where there is no dpkg-deb.
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

PROGRAM = "scripts/corpora/debian_docs"
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("debian_docs", PROGRAM)
debian_docs = importlib.util.module_from_spec(importlib.util.spec_from_loader("debian_docs", loader))
loader.exec_module(debian_docs)


class Extraction(unittest.TestCase):
    def test_html(self):
        page = ("<html><head><title>no</title></head><body><!-- no --><script>no</script><style>no</style><nav>no</nav>"
                "<h1>A  &lt;title&gt;</h1><p>one <b>bold</b>\tword,\n  next line</p><ul><li>a</li><li>b&nbsp;c</li></ul>"
                "<p> \n </p></body></html>")
        self.assertEqual(debian_docs.html_to_text(page), "A <title>\none bold word,\nnext line\na\nb\u00a0c")

    def test_man_page(self):
        page = "\n".join((
            r".\" comment", r'.TH LS 1 "2022"', ".SH NAME", r"ls \- list \fBall\fP files\&.", ".de URL", "hidden", "..",
            ".PP", "These never fail", "and never set", ".I errno", "or", ".BR getgid (2),", "as said.", "New line.",
            ".TP", r".BI \-x " + '"two words"', "its meaning", ".IP \\(bu 2", "item \\(em caf\\('e \\[co]",
            ".TS", "l l", "l l.", "a\tb", ".TE", "continued \\", "here"))
        self.assertEqual(debian_docs.roff_to_text(page).split("\n"), [
            "NAME", "ls - list all files.", "These never fail", "and never set errno or getgid(2), as said.", "New line.",
            "-xtwo words", "its meaning", "•", "item — café ©", "a b", "continued here"])

    def test_mdoc_page_is_left_out(self):
        self.assertEqual(debian_docs.roff_to_text(".Dd May 1\n.Sh NAME\ntext\n"), "")


class Splitting(unittest.TestCase):
    def test_lines_are_taken_once_and_never_from_held_out_documents(self):
        source = lambda split, package: debian_docs.Source(package, "xx", split, None, None)
        valid, train, translation = source("valid", "v"), source("train", "t"), source("train", "h")
        long = "x" * 600
        taken = debian_docs.split_documents(
            [train, valid, translation],
            {valid: [("a/one.html", "held out\nheld out")],
             train: [("a/two.html", f"first {long}\nheld out\nagain\nagain"), ("a/three.html", "again\nshort")],
             translation: [("a/four.html", f"english {long}\nfirst {long}\nnew {long}")]},
            {translation: {f"english {long}"}})
        self.assertEqual(taken["valid"], [("v/one.html", "held out\nheld out")])
        self.assertEqual(taken["train"], [("t/two.html", f"first {long}\nagain"), ("h/four.html", f"new {long}")])
        self.assertEqual(taken["test"], [])


class Program(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="rookery-test-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.cache = os.path.join(self.dir, "cache")
        self.out = os.path.join(self.dir, "corpus")
        os.mkdir(self.cache)

    def package(self, name, files):
        root = os.path.join(self.dir, name)
        for path, data in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "wb") as file:
                file.write(data)
        os.makedirs(f"{root}/DEBIAN")
        with open(f"{root}/DEBIAN/control", "w", encoding="utf-8") as file:
            file.write(f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: t\n")
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, f"{self.cache}/{name}_1_all.deb"], check=True,
                       stdout=subprocess.DEVNULL)

    def run_program(self, *arguments):
        return subprocess.run([sys.executable, PROGRAM, "--out", self.out, "--cache", self.cache, *arguments],
                              capture_output=True, text=True)

    def korean(self):
        html = lambda text: f"<html><body><p>{text}</p></body></html>".encode()
        self.package("debian-faq-ko", {"usr/share/doc/debian/FAQ/ko/basic.ko.html": html("질문")})
        self.package("installation-guide-amd64", {
            "usr/share/doc/installation-guide-amd64/ko/ch01.html": html("설치 " * 100),
            "usr/share/doc/installation-guide-amd64/en/ch01.html": html("install " * 100)})

    def test_writes_a_corpus_once(self):
        self.korean()
        first = self.run_program("--languages", "ko")
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("from the cache", first.stdout)
        with open(f"{self.out}/ko/train.jsonl", encoding="utf-8") as file:
            self.assertEqual([json.loads(row) for row in file],
                             [{"text": ("설치 " * 100).strip(), "source": "installation-guide-amd64/ch01.html"}])
        with open(f"{self.out}/ko/valid.txt", encoding="utf-8") as file:
            self.assertEqual(file.read(), "질문")
        with open(f"{self.out}/manifest.json", encoding="utf-8") as file:
            manifest = json.load(file)
        with open(f"{self.out}/ko/train.jsonl", "rb") as file:
            self.assertEqual(manifest["languages"]["ko"]["train.jsonl"]["sha256"], hashlib.sha256(file.read()).hexdigest())
        self.assertEqual(sorted(os.listdir(self.dir + "/corpus")), ["ko", "manifest.json"])

        again = self.run_program("--languages", "ko")
        self.assertEqual((again.returncode, "nothing to do" in again.stdout), (0, True), again.stderr)

        with open(f"{self.out}/ko/train.jsonl", "a", encoding="utf-8") as file:
            file.write("damage")
        mended = self.run_program("--languages", "ko")
        self.assertEqual((mended.returncode, "written" in mended.stdout), (0, True), mended.stderr)
        with open(f"{self.out}/ko/train.jsonl", encoding="utf-8") as file:
            self.assertNotIn("damage", file.read())

    def test_another_corpus_is_not_overwritten(self):
        self.korean()
        self.assertEqual(self.run_program("--languages", "ko").returncode, 0)
        other = self.run_program("--languages", "en")
        self.assertEqual(other.returncode, 73)
        self.assertIn("holds another corpus", other.stderr)

    def test_bad_arguments(self):
        for arguments, code in ((("--languages", "xx"), 64), (("--jobs", "0"), 64), (("--nonsense",), 64)):
            self.assertEqual(self.run_program(*arguments).returncode, code, arguments)

    def test_a_damaged_package_leaves_nothing_behind(self):
        self.korean()
        deb = f"{self.cache}/installation-guide-amd64_1_all.deb"
        with open(deb, "r+b") as file:
            file.truncate(os.path.getsize(deb) // 2)
        run = self.run_program("--languages", "ko")
        self.assertEqual(run.returncode, 69, run.stderr)
        self.assertIn("installation-guide-amd64_1_all.deb", run.stderr)
        self.assertFalse(os.path.exists(self.out) or os.path.exists(self.out + ".part"))


if __name__ == "__main__":
    if not shutil.which("dpkg-deb"):
        print("skipped: dpkg-deb is not there")
        sys.exit(77)
    unittest.main()
