#include "cairn/tasks/words.h"

#include "cairn/core/files.h"

namespace cairn {
namespace {

constexpr std::string_view kAdjectives[] = {
    "able",    "active",  "afraid",  "alive",   "ancient", "angry",    "average", "awake",   "awful",   "basic",   "better",   "bitter",
    "black",   "blind",   "blue",    "bold",    "brave",   "brief",    "bright",  "broad",   "broken",  "brown",   "busy",     "calm",
    "careful", "central", "certain", "cheap",   "civil",   "clean",    "clear",   "clever",  "close",   "cold",    "common",   "cool",
    "correct", "crazy",   "cruel",   "curious", "damp",    "daily",    "dark",    "dear",    "deep",    "direct",  "dirty",    "distant",
    "double",  "dry",     "dull",    "eager",   "early",   "easy",     "empty",   "entire",  "equal",   "exact",   "extra",    "faint",
    "fair",    "famous",  "fancy",   "fast",    "fatal",   "final",    "fine",    "firm",    "flat",    "foreign", "formal",   "frank",
    "free",    "fresh",   "full",    "funny",   "gentle",  "giant",    "glad",    "golden",  "good",    "grand",   "grateful", "gray",
    "great",   "green",   "guilty",  "handy",   "happy",   "hard",     "harsh",   "healthy", "heavy",   "hidden",  "high",     "hollow",
    "holy",    "honest",  "hot",     "huge",    "humble",  "hungry",   "icy",     "ideal",   "inner",   "jolly",   "keen",     "kind",
    "large",   "late",    "lazy",    "legal",   "likely",  "little",   "lively",  "local",   "lonely",  "long",    "loose",    "loud",
    "lovely",  "loyal",   "lucky",   "mad",     "major",   "mean",     "mighty",  "mild",    "minor",   "modern",  "modest",   "moral",
    "mutual",  "narrow",  "naval",   "neat",    "new",     "nice",     "noble",   "noisy",   "normal",  "novel",   "odd",      "old",
    "open",    "outer",   "pale",    "perfect", "plain",   "pleasant", "polite",  "poor",    "popular", "pretty",  "prime",    "private",
    "proper",  "proud",   "public",  "pure",    "quick",   "quiet",    "rapid",   "rare",    "raw",     "ready",   "real",     "recent",
    "red",     "regular", "rich",    "rough",   "round",   "royal",    "rude",    "sacred",  "sad",     "safe",    "sandy",    "secret",
    "serious", "severe",  "shallow", "sharp",   "short",   "shy",      "silent",  "silly",   "simple",  "single",  "slight",   "slim",
    "slow",    "small",   "smart",   "smooth",  "social",  "soft",     "solid",   "sour",    "special", "steady",  "steep",    "stiff",
    "strange", "strict",  "strong",  "sudden",  "sunny",   "sweet",    "swift",   "tall",    "tame",    "tender",  "thick",    "thin",
    "tidy",    "tiny",    "tired",   "tough",   "true",    "ugly",     "upper",   "useful",  "usual",   "vague",   "valid",    "vast",
    "violent", "warm",    "weak",    "wealthy", "wet",     "white",    "whole",   "wicked",  "wide",    "wild",    "wise",     "wooden",
    "wrong",   "yellow",  "young"};

constexpr std::string_view kNouns[] = {
    "acorn",   "actor",   "address", "advice",  "air",     "alarm",   "album",    "animal",  "answer",   "apple",   "april",   "apron",
    "arch",    "arm",     "army",    "arrow",   "artist",  "ash",     "aunt",     "author",  "autumn",   "baby",    "badge",   "bag",
    "baker",   "ball",    "banana",  "band",    "bank",    "barn",    "barrel",   "basin",   "basket",   "bath",    "battle",  "beach",
    "bean",    "bear",    "beard",   "bed",     "bee",     "bell",    "belt",     "bench",   "berry",    "bird",    "birth",   "biscuit",
    "blade",   "blanket", "blood",   "board",   "boat",    "body",    "bone",     "book",    "boot",     "border",  "bottle",  "bowl",
    "box",     "branch",  "bread",   "breath",  "brick",   "bridge",  "broom",    "brother", "bucket",   "butter",  "button",  "cabin",
    "cable",   "cage",    "cake",    "camel",   "camera",  "camp",    "canal",    "candle",  "canoe",    "canvas",  "captain", "card",
    "carpet",  "carrot",  "castle",  "cat",     "cave",    "cellar",  "chain",    "chair",   "chalk",    "cheese",  "cherry",  "chest",
    "child",   "church",  "circle",  "city",    "clay",    "clerk",   "cliff",    "clock",   "cloth",    "cloud",   "coal",    "coast",
    "coat",    "coffee",  "coin",    "collar",  "college", "color",   "copper",   "corn",    "corner",   "cotton",  "cousin",  "cow",
    "cradle",  "cream",   "creek",   "crowd",   "crown",   "cup",     "curtain",  "dance",   "daughter", "dawn",    "desert",  "desk",
    "diamond", "dinner",  "doctor",  "dog",     "doll",    "door",    "dragon",   "drawer",  "dream",    "dress",   "driver",  "drum",
    "duck",    "dust",    "eagle",   "ear",     "earth",   "east",    "edge",     "egg",     "elbow",    "engine",  "evening", "eye",
    "face",    "factory", "family",  "farm",    "father",  "feather", "fence",    "ferry",   "field",    "finger",  "fire",    "fish",
    "flag",    "flame",   "floor",   "flour",   "flower",  "foot",    "forest",   "fork",    "fountain", "fox",     "frame",   "friend",
    "frog",    "fruit",   "garden",  "gate",    "ghost",   "gift",    "girl",     "glass",   "glove",    "goat",    "grain",   "grape",
    "grass",   "guest",   "guitar",  "hair",    "hall",    "hammer",  "hand",     "harbor",  "hat",      "hay",     "head",    "heart",
    "hill",    "honey",   "hook",    "horn",    "horse",   "hotel",   "hour",     "house",   "hunter",   "ice",     "ink",     "iron",
    "island",  "jacket",  "jar",     "jewel",   "judge",   "juice",   "kettle",   "key",     "king",     "kitchen", "kite",    "knee",
    "knife",   "knight",  "ladder",  "lake",    "lamb",    "lamp",    "lantern",  "lawyer",  "leaf",     "leather", "lemon",   "letter",
    "library", "lily",    "linen",   "lion",    "lip",     "lizard",  "lock",     "machine", "maid",     "map",     "maple",   "marble",
    "market",  "mask",    "master",  "meadow",  "meal",    "medal",   "memory",   "metal",   "milk",     "mill",    "mirror",  "money",
    "monkey",  "month",   "moon",    "morning", "moss",    "mother",  "mountain", "mouse",   "mouth",    "music",   "nail",    "name",
    "neck",    "needle",  "nest",    "net",     "night",   "north",   "nose",     "nurse",   "oak",      "ocean",   "office",  "oil",
    "olive",   "onion",   "orange",  "orchard", "oven",    "owl",     "oyster",   "page",    "paint",    "palace",  "paper",   "parcel",
    "park",    "parrot",  "path",    "peach",   "pearl",   "pencil",  "pepper",   "piano",   "picture",  "pigeon",  "pillow",  "pilot",
    "pine",    "pipe",    "pirate",  "planet",  "plate",   "pocket",  "poem",     "poet",    "pond",     "pony",    "potato",  "powder",
    "prince",  "prison",  "queen",   "rabbit",  "rail",    "rain",    "ribbon",   "rice",    "rider",    "ring",    "river",   "road",
    "robin",   "rock",    "roof",    "room",    "root",    "rope",    "rose",     "rug",     "saddle",   "sail",    "sailor",  "salt",
    "sand",    "saw",     "school",  "sea",     "seed",    "shadow",  "shed",     "sheep",   "shelf",    "shell",   "ship",    "shirt",
    "shoe",    "shop",    "shore",   "silk",    "silver",  "singer",  "sister",   "skin",    "sky",      "sleeve",  "smoke",   "snail",
    "snake",   "snow",    "soap",    "soldier", "song",    "soup",    "south",    "spider",  "spoon",    "spring",  "square",  "stable",
    "stair",   "star",    "station", "steam",   "stone",   "storm",   "story",    "stove",   "straw",    "stream",  "street",  "student",
    "sugar",   "summer",  "sun",     "sword",   "table",   "tail",    "tailor",   "tea",     "teacher",  "temple",  "tent",    "thread",
    "throne",  "thumb",   "ticket",  "tiger",   "tooth",   "towel",   "tower",    "town",    "train",    "tree",    "trumpet", "tunnel",
    "turtle",  "uncle",   "valley",  "velvet",  "village", "violin",  "wagon",    "wall",    "water",    "wheat",   "wheel",   "window",
    "winter",  "witness", "wolf",    "woman",   "wood",    "wool",    "worker",   "yard"};

}  // namespace

std::span<const std::string_view> adjectives() { return kAdjectives; }
std::span<const std::string_view> nouns() { return kNouns; }
bool is_held_out(std::string_view text) { return hash_bytes(text) % 16 == 0; }

}  // namespace cairn
