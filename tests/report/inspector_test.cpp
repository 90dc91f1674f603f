// The inspector: what it refuses to read, what it writes, and what a browser makes of it.
#include "cairn/report/inspector.h"

#include <sys/wait.h>

#include <cstdio>
#include <regex>

#include "report/synthetic.h"

namespace cairn::report {
namespace {

json make_chunk(int64_t number, int64_t document, int64_t begin, const std::string& text) {
  return {{"chunk", number},
          {"document", document},
          {"begin", begin},
          {"end", begin + 10},
          {"text", text},
          {"before", "what stands before " + std::to_string(number) + ". "},
          {"after", " What stands after " + std::to_string(number) + "."}};
}

json make_read(int64_t retrieval, int64_t chunk, double weight) { return {{"retrieval", retrieval}, {"chunk", chunk}, {"weight", weight}}; }

// Two documents, four chunks (one written while answering), two questions.
json make_answers() {
  json answers = {{"kind", "cairn.answers"},
                  {"version", 1},
                  {"model", "runs/tiny/model"},
                  {"fingerprint", "0123456789abcdef"},
                  {"memory", "books.memory"},
                  {"command", "cairn ask runs/tiny/model"},
                  {"created", "2026-11-22T01:02:03Z"},
                  {"chunk", 64},
                  {"memory_tokens", 12800}};
  answers["documents"] = {{{"name", "book.txt"}, {"begin_chunk", 0}, {"end_chunk", 100}, {"bytes", 50000}},
                          {{"name", "other.txt"}, {"begin_chunk", 100}, {"end_chunk", 200}, {"bytes", 60000}}};
  answers["chunks"] = {make_chunk(17, 0, 7000, "the seventeenth chunk"), make_chunk(3, 0, 1000, "the third chunk"),
                       make_chunk(150, 1, 25000, "the hundred and fiftieth chunk"), make_chunk(201, kWhileAnswering, 0, "its own words")};
  answers["questions"] = {
      {{"question", "Where does the water go?"},
       {"answer", "the river"},
       {"seconds", 0.125},
       {"tokens",
        {{{"text", "the"}, {"probability", 0.5}, {"reads", {make_read(0, 3, 0.25), make_read(0, 17, 0.5), make_read(1, 17, 0.125)}}},
         {{"text", " river"}, {"probability", 0.9375}, {"reads", {make_read(0, 17, 0.8), make_read(0, 150, 0.2), make_read(1, 201, 1)}}},
         {{"text", "."}, {"probability", 1}, {"reads", json::array()}}}}},
      {{"question", "And then?"},
       {"answer", "sea"},
       {"seconds", 0.25},
       {"tokens", json::array({{{"text", "sea"}, {"probability", 0.25}, {"reads", json::array({make_read(0, 150, 0.75)})}}})}}};
  return answers;
}

std::string refusal(const json& answers) {
  try {
    parse_answers(answers.dump(), "a.json");
  } catch (const UserError& error) {
    return error.what();
  }
  return "accepted";
}

// The message must name the file, the place and the member.
void expect_refused(const json& answers, const std::string& part) {
  const std::string message = refusal(answers);
  EXPECT_EQ(message.rfind("a.json: ", 0), 0u) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n  lacks: " << part;
}

TEST(Answers, AreReadInOrder) {
  const Answers a = parse_answers(make_answers().dump(), "a.json");
  EXPECT_EQ(a.model, "runs/tiny/model");
  EXPECT_EQ(a.memory_tokens, 12800);
  ASSERT_EQ(a.chunks.size(), 4u);
  EXPECT_EQ(a.chunks[0].chunk, 3);  // by number
  EXPECT_EQ(a.chunks[1].before, "what stands before 17. ");
  EXPECT_EQ(a.chunks[3].document, kWhileAnswering);
  ASSERT_EQ(a.questions.size(), 2u);
  const auto& reads = a.questions[0].tokens[0].reads;
  ASSERT_EQ(reads.size(), 3u);  // by retrieval, the heaviest first
  EXPECT_EQ(a.chunks[reads[0].chunk].chunk, 17);
  EXPECT_EQ(reads[0].weight, 0.5);
  EXPECT_EQ(a.chunks[reads[1].chunk].chunk, 3);
  EXPECT_EQ(reads[2].retrieval, 1);
  EXPECT_TRUE(a.questions[0].tokens[2].reads.empty());
}

TEST(Answers, EveryMemberMustBeThereAndOfItsKind) {
  const json whole = make_answers();
  const std::pair<const char*, const char*> objects[] = {{"", "a.json: "},
                                                         {"/documents/1", "documents[1]: "},
                                                         {"/chunks/2", "chunks[2]: "},
                                                         {"/questions/1", "questions[1]: "},
                                                         {"/questions/0/tokens/1", "questions[0].tokens[1]: "},
                                                         {"/questions/0/tokens/1/reads/2", "questions[0].tokens[1].reads[2]: "}};
  int tried = 0;
  for (const auto& [path, shown] : objects) {
    const json::json_pointer at(path);
    for (const auto& [name, value] : whole[at].items()) {
      SCOPED_TRACE(std::string(path) + "/" + name);
      json broken = whole;
      broken[at].erase(name);
      expect_refused(broken, shown + std::string("the field \"") + name + "\" is missing");
      const std::vector<json> wrong = {nullptr, true, json::object(), value.is_string() ? json(7) : json("seven"),
                                       value.is_array() ? json(7) : json::array()};
      for (const json& other : wrong) {
        broken = whole;
        broken[at][name] = other;
        expect_refused(broken, shown);
        expect_refused(broken, "\"" + name + "\"");
        ++tried;
      }
    }
    json broken = whole;
    broken[at] = 7;
    expect_refused(broken, "expected an object");
  }
  EXPECT_EQ(tried, 5 * (12 + 4 + 7 + 4 + 3 + 3));
}

TEST(Answers, ThatContradictThemselvesAreRefused) {
  const auto with = [](const char* path, const json& value) {
    json answers = make_answers();
    answers[json::json_pointer(path)] = value;
    return answers;
  };
  expect_refused(with("/kind", "eval"), "\"kind\" is \"eval\"");
  expect_refused(with("/version", 2), "\"version\" is 2");
  expect_refused(with("/fingerprint", "0123"), "\"fingerprint\"");
  expect_refused(with("/fingerprint", "0123456789ABCDEG"), "\"fingerprint\"");
  expect_refused(with("/created", "yesterday"), "\"created\"");
  expect_refused(with("/chunk", 0), "\"chunk\" is 0");
  expect_refused(with("/memory_tokens", -1), "\"memory_tokens\" is -1");
  expect_refused(with("/memory_tokens", 1.5), "\"memory_tokens\" must be a whole number");
  expect_refused(with("/memory_tokens", 18446744073709551615u), "\"memory_tokens\"");
  expect_refused(with("/documents/0/end_chunk", -5), "documents[0]: \"end_chunk\"");
  json order = make_answers();
  std::swap(order["documents"][0], order["documents"][1]);
  expect_refused(order, "documents[1]: \"begin_chunk\" is 0");
  expect_refused(with("/chunks/1/chunk", 17), "chunks[1]: chunk 17 is there twice");
  expect_refused(with("/chunks/0/document", 2), "chunks[0]: \"document\" is 2");
  expect_refused(with("/chunks/0/document", -2), "chunks[0]: \"document\" is -2");
  expect_refused(with("/chunks/0/document", 1), "chunks[0]: chunk 17 is none of document 1");
  expect_refused(with("/chunks/0/end", 6999), "chunks[0]: \"end\" is 6999");
  expect_refused(with("/chunks/0/end", 50001), "but document 0 has 50000 bytes");
  expect_refused(with("/questions/0/seconds", -1), "questions[0]: \"seconds\" is -1");
  expect_refused(with("/questions/0/tokens/1/probability", 1.01), "questions[0].tokens[1]: \"probability\" is 1.01");
  expect_refused(with("/questions/0/tokens/1/reads/0/weight", -0.1), "questions[0].tokens[1].reads[0]: \"weight\" is -0.1");
  expect_refused(with("/questions/0/tokens/1/reads/0/weight", 0.9),
                 "questions[0].tokens[1]: \"reads\": the weights of retrieval 0 sum to 1.1");
  expect_refused(with("/questions/0/tokens/1/reads/0/chunk", 18), "questions[0].tokens[1].reads[0]: chunk 18 is not in the list");
  expect_refused(with("/questions/0/tokens/1/reads/1/chunk", 17), "reads[1]: chunk 17 is there twice in retrieval 0");
  expect_refused(with("/questions/0/tokens/1/reads/0/retrieval", -1), "\"retrieval\" is -1");
  EXPECT_EQ(refusal(with("/questions/0/tokens/1/reads/0/weight", 0.8004)), "accepted") << "rounding is no contradiction";
  EXPECT_EQ(refusal(with("/a_member_of_a_later_version", 1)), "accepted");
}

TEST(Answers, WhatIsNoJsonIsRefused) {
  const std::string whole = make_answers().dump();
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{"), whole.substr(0, whole.size() / 2), whole + "x",
                                  std::string(100000, '['), std::string("{\"kind\":\"\xff\"}"), std::string("{\"kind\":\"\\ud800\"}")}) {
    try {
      parse_answers(text, "a.json");
      ADD_FAILURE() << text.substr(0, 40);
    } catch (const UserError& error) {
      EXPECT_EQ(std::string(error.what()).rfind("a.json: ", 0), 0u) << error.what();
    }
  }
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}

// What lies between <tag ... and </tag> from `from` on.
std::string inside(const std::string& html, const std::string& open, const std::string& close) {
  const size_t begin = html.find(open);
  if (begin == std::string::npos) return "(no " + open + ")";
  const size_t end = html.find(close, begin);
  return html.substr(begin, end - begin);
}

// What people see: the page without scripts, data and style.
std::string visible(std::string html) {
  for (const std::string tag : {"script", "style"}) {
    for (size_t begin = 0; (begin = html.find("<" + tag, begin)) != std::string::npos;) {
      const size_t end = html.find("</" + tag + ">", begin);
      html.erase(begin, end == std::string::npos ? end : end - begin + tag.size() + 3);
    }
  }
  return html;
}

class InspectorTest : public ReportTest {
 protected:
  std::string page_of(const json& answers) {
    write_inspector(write("a.json", answers), folder_ / "a.html");
    return slurp(folder_ / "a.html");
  }
};

TEST_F(InspectorTest, IsReadableWithoutScripts) {
  const std::string page = page_of(make_answers());
  EXPECT_EQ(tag_errors(page), "");
  const std::string shown = visible(page);
  for (const char* text :
       {"Where does the water go?", ">the</button>", "> river</button>", "style=\"--p:0.938\"", "title=\"93.8 %\"", "3 tokens in 0.125 s",
        "least sure: \u201cthe\u201d with 50 %", "the seventeenth chunk", "book.txt, bytes 7,000\u20137,010", "href=\"#q=0&amp;c=17\"",
        "written while answering, chunk 201", "2 questions, asked of 12,800 tokens in 2 documents", "cairn ask runs/tiny/model"}) {
    EXPECT_NE(shown.find(text), std::string::npos) << text;
  }
  // Of the weights of the first answer, 2.875 in all, chunk 17 got 1.425 and chunk 201 got 1.
  EXPECT_NE(shown.find("<span class=\"share\">49.6 %</span><span class=\"from\">book.txt, bytes 7,000"), std::string::npos);
  EXPECT_NE(shown.find("<span class=\"share\">34.8 %</span><span class=\"from\">written while answering"), std::string::npos);
  // Tokens that are more than the answer: both are shown.
  EXPECT_EQ(count(shown, "class=\"plain\""), 1u);
  EXPECT_EQ(page.find("://"), page.rfind("://")) << "only the namespace of SVG";
  EXPECT_FALSE(std::regex_search(shown, std::regex("<(link|img|iframe|object|embed)|@import|src=")));
  EXPECT_EQ(page_of(make_answers()), page) << "the same answers give the same bytes";
}

TEST_F(InspectorTest, EmptyThingsHaveAPage) {
  json answers = make_answers();
  answers["questions"] = json::array();
  answers["chunks"] = json::array();
  answers["documents"] = json::array();
  std::string page = page_of(answers);
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_NE(page.find("holds no question"), std::string::npos);
  answers["questions"] = json::array({{{"question", ""}, {"answer", ""}, {"seconds", 0}, {"tokens", json::array()}}});
  page = page_of(answers);
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_NE(page.find("has read no chunk"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
}

TEST_F(InspectorTest, OutputsThatCannotBeAreRefused) {
  const fs::path answers = write("a.json", make_answers());
  EXPECT_THROW(write_inspector(answers, folder_ / "a.json"), UserError);
  EXPECT_THROW(write_inspector(folder_ / "none.json", folder_ / "a.html"), UserError);
  fs::create_directories(folder_ / "d.html");
  EXPECT_THROW(write_inspector(answers, folder_ / "d.html"), UserError);
  const fs::path disguised = write("b.html", make_answers());
  EXPECT_THROW(write_inspector(disguised, disguised), UserError);
  EXPECT_EQ(json::parse(slurp(disguised)), make_answers());
  EXPECT_FALSE(fs::exists(folder_ / "a.html"));
}

// Every text of the file as an attack.
json hostile_answers() {
  const std::string attack =
      "</script></style></title><script>document.documentElement.dataset.owned=1</script>"
      "<img src=x onerror=\"document.documentElement.dataset.owned=1\">\"'><b onclick='1'>&lt;&amp;<!--\u2028\u2029\r\x01";
  json answers = make_answers();
  for (const char* name : {"model", "memory", "command"}) answers[name] = attack;
  for (json& d : answers["documents"]) d["name"] = attack;
  for (json& c : answers["chunks"]) c["text"] = c["before"] = c["after"] = attack + std::to_string(c["chunk"].get<int>());
  for (json& q : answers["questions"]) {
    q["question"] = q["answer"] = attack;
    for (json& t : q["tokens"]) t["text"] = attack;
  }
  return answers;
}

TEST_F(InspectorTest, NothingOfTheFileBecomesMarkup) {
  const std::string page = page_of(hostile_answers()), plain = page_of(make_answers());
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_EQ(page.find("<img"), std::string::npos);
  EXPECT_EQ(page.find("<b onclick"), std::string::npos);
  EXPECT_EQ(page.find("<!--"), std::string::npos);
  EXPECT_EQ(count(page, "<script"), count(plain, "<script"));
  EXPECT_EQ(count(page, "</script"), count(plain, "</script"));
  // In the data: nothing that a parser of HTML or an old one of JavaScript stumbles over; and it comes back as it was.
  std::string block = inside(page, "id=\"k0\">", "</script>").substr(8);
  EXPECT_EQ(block.find_first_of("<>&\r\n"), std::string::npos);
  EXPECT_EQ(block.find("\u2028"), std::string::npos);
  EXPECT_EQ(json::parse(block)[1][4], hostile_answers()["chunks"][0]["text"]);
}

// A browser's view of the page at an address, or the reason why there is none.
class InBrowser : public InspectorTest {
 protected:
  void SetUp() override {
    InspectorTest::SetUp();
    for (const char* name : {"chromium", "google-chrome", "chromium-browser"}) {
      if (std::system(("command -v " + std::string(name) + " > /dev/null 2>&1").c_str()) == 0) browser_ = name;
      if (!browser_.empty()) return;
    }
    GTEST_SKIP() << "no chromium or google-chrome here: the page's script is not tested";
  }

  std::string load(const std::string& hash) {
    const fs::path out = folder_ / "dom.html";
    const std::string command = "HOME='" + folder_.string() + "' timeout 120 " + browser_ +
                                " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir='" +
                                (folder_ / "profile").string() + "' --virtual-time-budget=3000 --dump-dom 'file://" +
                                (folder_ / "a.html").string() + hash + "' > '" + out.string() + "' 2> '" + (folder_ / "log").string() + "'";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << slurp(folder_ / "log");
    return slurp(out);
  }
  std::string root_of(const std::string& hash) { return inside(load(hash), "<html", ">"); }
  // The page after its script, which must have come to its end without an error.
  std::string dom(const std::string& hash) {
    const std::string text = load(hash), root = inside(text, "<html", ">");
    EXPECT_NE(root.find("data-ready=\"1\""), std::string::npos) << root;
    EXPECT_EQ(root.find("data-error"), std::string::npos) << root;
    EXPECT_EQ(root.find("data-owned"), std::string::npos) << root;
    return visible(text);
  }
  static std::string marked(const std::string& dom) { return inside(dom, "<mark", "</mark>"); }
  static std::string spot(const std::string& dom) { return inside(dom, "<div class=\"spot\"", "</div>"); }

  std::string browser_;
};

TEST_F(InBrowser, AHashSelectsQuestionTokenAndChunk) {
  page_of(make_answers());
  std::string seen = dom("#q=0&t=1&c=17");
  EXPECT_NE(marked(seen).find("the seventeenth chunk"), std::string::npos) << marked(seen);
  EXPECT_NE(spot(seen).find("book.txt, bytes 7,000\u20137,010 of 50,000; chunk 17"), std::string::npos) << spot(seen);
  EXPECT_NE(spot(seen).find("what stands before 17. "), std::string::npos);
  EXPECT_NE(spot(seen).find(" What stands after 17."), std::string::npos);
  const std::string panel = inside(seen, "<div class=\"panel", "<div class=\"spot\"");
  EXPECT_NE(panel.find("Token 2"), std::string::npos);
  EXPECT_NE(panel.find("probability 93.8 %"), std::string::npos) << panel;
  EXPECT_NE(panel.find("Retrieval 1 <small>2 chunks, together 100 %"), std::string::npos) << panel;
  EXPECT_NE(panel.find("Retrieval 2 <small>1 chunk, together 100 %"), std::string::npos) << panel;
  EXPECT_LT(panel.find("80 %"), panel.find("20 %"));
  EXPECT_EQ(count(inside(seen, "<g class=\"now\"", "</g>"), "<path"), 3u) << "one mark a read";
  EXPECT_EQ(count(seen, "aria-pressed=\"true\""), 1u);
  EXPECT_EQ(count(seen, "<mark"), 1u);

  seen = dom("#q=0&t=1&c=150");
  EXPECT_NE(marked(seen).find("the hundred and fiftieth chunk"), std::string::npos) << marked(seen);
  EXPECT_NE(spot(seen).find("other.txt"), std::string::npos);
  seen = dom("#q=1&t=0");
  EXPECT_NE(marked(seen).find("the hundred and fiftieth chunk"), std::string::npos) << "the heaviest by itself";
  EXPECT_NE(inside(seen, "<section class=\"q on at\" id=\"q1\"", "</section>").find("Token 1"), std::string::npos);
  seen = dom("#q=0&c=3");
  EXPECT_NE(marked(seen).find("the third chunk"), std::string::npos) << "without a token";
  seen = dom("#q=0&t=2");
  EXPECT_NE(seen.find("it read no chunk"), std::string::npos);
  EXPECT_EQ(count(seen, "<mark"), 0u);
}

TEST_F(InBrowser, AnAddressThatIsNotThereOpensTheBeginning) {
  page_of(make_answers());
  for (const char* hash : {"", "#q=7", "#q=0&t=99", "#q=0&t=1&c=18", "#q=-1", "#%3Cimg%3E"}) {
    SCOPED_TRACE(hash);
    EXPECT_NE(marked(dom(hash)).find("the seventeenth chunk"), std::string::npos);
  }
}

TEST_F(InBrowser, KeysAndClicksMoveTheSelection) {
  std::string page = page_of(make_answers());
  // The page's own policy lets no other script run, so the test's goes where the policy allows it: into the page's script.
  const auto steps = [&](const std::string& code) {
    std::string changed = page;
    changed.replace(changed.rfind("})();"), 5, "setTimeout(function () {" + code + "}, 0);})();");
    write("a.html", changed);
    return dom("#q=0&t=0");
  };
  const std::string key = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'KEY', bubbles: true}));";
  const auto press = [&](const std::string& name) { return std::regex_replace(key, std::regex("KEY"), name); };
  EXPECT_NE(steps(press("ArrowRight")).find("Token 2, "), std::string::npos);
  EXPECT_NE(steps(press("End")).find("Token 3, "), std::string::npos);
  EXPECT_NE(steps(press("End") + press("ArrowRight") + press("ArrowLeft")).find("Token 2, "), std::string::npos) << "the end is the end";
  EXPECT_NE(steps(press("End") + press("Home")).find("Token 1, "), std::string::npos);
  const std::string left = steps(press("Escape"));
  EXPECT_EQ(count(left, "aria-pressed"), 0u);
  EXPECT_EQ(count(left, "<mark"), 0u);
  EXPECT_NE(marked(steps("document.querySelector('.read[data-c=\"3\"]').click();")).find("the third chunk"), std::string::npos);
  EXPECT_NE(marked(steps("document.querySelector('.now .m[data-c=\"3\"]').dispatchEvent(new MouseEvent('click', {bubbles: true}));"))
                .find("the third chunk"),
            std::string::npos);
  const std::string other = steps("document.querySelector('#q1 .tok').click(); document.title = location.hash;");
  EXPECT_NE(other.find("<title>#q=1&amp;t=0</title>"), std::string::npos);
  EXPECT_NE(marked(other).find("the hundred and fiftieth"), std::string::npos);
  EXPECT_EQ(count(other, "class=\"spot\""), 1u) << "the other question is closed";
  // An error of the script is seen: otherwise "no error" above would mean nothing.
  std::string broken = page;
  broken.replace(broken.rfind("})();"), 5, "throw new Error('on purpose');})();");
  write("a.html", broken);
  EXPECT_NE(root_of("#q=0&t=0").find("data-error=\"Uncaught Error: on purpose\""), std::string::npos) << root_of("#q=0&t=0");
}

TEST_F(InBrowser, AHostileFileRunsNothing) {
  page_of(hostile_answers());
  const std::string seen = dom("#q=0&t=1&c=17");
  EXPECT_NE(marked(seen).find("&lt;img src=x onerror="), std::string::npos) << marked(seen);
  EXPECT_EQ(count(seen, "<img"), 0u);
}

TEST_F(InBrowser, AThousandQuestionsAreFound) {
  json answers = make_answers();
  const json one = answers["questions"][0];
  for (int i = 2; i < 1000; ++i) {
    answers["questions"].push_back(one);
    answers["questions"].back()["question"] = "Question of number " + std::to_string(i);
  }
  page_of(answers);
  const std::string seen = dom("#q=998&t=1&c=150");
  EXPECT_NE(inside(seen, "id=\"q998\"", "</section>").find("Question of number 998"), std::string::npos);
  EXPECT_NE(marked(seen).find("the hundred and fiftieth chunk"), std::string::npos);
  EXPECT_EQ(count(seen, "class=\"spot\""), 1u);
}

}  // namespace
}  // namespace cairn::report
