#include "cairn/text/prose_words.h"

namespace cairn::prose {

std::string_view names() {
  return "Ada|Agnes|Albert|Alma|Ambrose|Anton|Arthur|Astrid|Aurelia|Basil|Beatrice|Benedict|Bertha|Bruno|Camilla|Caspar|Cecil|Clara|"
         "Clement|Constance|"
         "Cora|Cyril|Daphne|Delia|Dora|Edgar|Edith|Edmund|Eleanor|Elias|Elsa|Emil|Enid|Ernest|Esther|Eunice|Fabian|Felix|Flora|Frances|"
         "Gareth|Gerald|"
         "Gilbert|Greta|Gustav|Hannah|Harold|Hazel|Helena|Henrik|Herman|Hilda|Hugo|Ida|Ingrid|Irene|Isaac|Ivor|Jasper|Johanna|Josephine|"
         "Judith|Julian|"
         "Kaspar|Katrin|Konrad|Lambert|Laura|Leonard|Lionel|Lydia|Mabel|Magnus|Margot|Martha|Matilda|Maurice|Mildred|Miriam|Nathan|Nora|"
         "Octavia|Olaf|"
         "Oscar|Ottilie|Percy|Philippa|Quentin|Ralph|Rosalind|Rufus|Ruth|Selma|Sidney|Silas|Sybil|Theodor|Thora|Ursula|Valentin|Vera|"
         "Victor|Viola|"
         "Walter|Wilfred|Winifred|Yvonne|Zelda";
}

std::string_view things() {
  return "basket|bucket|lantern|candle|ladder|hammer|needle|kettle|blanket|pillow|mirror|carpet|curtain|cupboard|drawer|table|chair|stool|"
         "barrel|bottle|"
         "jar|bowl|plate|spoon|napkin|apron|coat|hat|glove|scarf|button|ribbon|thread|letter|parcel|stamp|envelope|notebook|pencil|map|"
         "globe|compass|clock|"
         "bell|whistle|trumpet|drum|violin|piano|organ|painting|statue|frame|medal|crown|ring|necklace|coin|purse|wallet|ledger|ticket|"
         "trunk|suitcase|"
         "umbrella|cane|lamp|stove|chimney|brick|tile|plank|nail|rope|chain|hook|anchor|oar|sail|raft|canoe|ferry|wagon|cart|wheel|saddle|"
         "bridle|plough|"
         "rake|spade|shovel|scythe|sack|net|trap|cage|kennel|nest|feather|shell|pebble|crystal|fossil|bone|acorn|chestnut|mushroom|apple|"
         "pear|plum|melon|"
         "onion|carrot|turnip|pumpkin|cabbage|bun|cake|biscuit|pie|sausage|cheese|egg|teapot|saucer|pitcher|funnel|sieve|mortar|scale|"
         "ruler|"
         "pulley|lever|spring|gear|engine|pump|valve|pipe|tank|cable|magnet|lens|telescope|microscope|prism|thermometer|barometer|camera|"
         "portrait|poster|"
         "pamphlet|poem|song|riddle|rumour|promise|secret|plan|drawing|sketch|model|puzzle|toy|doll|kite|marble|swing|bench|fence|gate|"
         "hinge|lock|key|"
         "doorbell|window|shutter|step|railing|banner|flag|tent|hammock|torch|match|log|branch|root|leaflet|seed|flower|tulip|rose|thistle|"
         "fern|vine|hedge|"
         "goat|sheepdog|pony|donkey|cow|rooster|hen|duckling|swan|heron|owl|crow|sparrow|robin|beetle|spider|moth|snail|frog|toad|turtle|"
         "trout|eel|crab|"
         "fox cub|badger|hedgehog|squirrel|rabbit|otter|beaver|stag|kitten|hound|parrot|ship model|signpost|milestone|well "
         "cover|spindle|loom|anvil|chisel|"
         "trowel|bellow|quill|inkwell|locket|brooch|buckle|lute|harp|flute|cymbal|puppet|mask|costume|helmet|shield|arrow|bow|quiver|"
         "sundial|hourglass|"
         "weathervane|wreath|garland|cushion|quilt|tapestry|rug|broom|mop|sponge|comb|brush|razor|kerchief|sandal|boot|slipper|belt|"
         "satchel|crate|chest";
}

std::string_view adjectives() {
  return "old|new|small|large|heavy|light|narrow|wide|tall|short|round|square|crooked|straight|smooth|rough|soft|hard|bright|dark|pale|"
         "faded|golden|silver|"
         "copper|wooden|red|green|blue|yellow|purple|grey|white|black|brown|orange|spotted|striped|painted|polished|dusty|dirty|clean|"
         "empty|full|broken|"
         "mended|cracked|hidden|lost|forgotten|famous|rare|common|cheap|precious|borrowed|stolen|plain|strange|curious|ordinary|beautiful|"
         "ugly|clever|"
         "foolish|noisy|silent|quiet|gentle|fierce|tame|wild|hungry|sleepy|lazy|busy|cheerful|gloomy|proud|humble|honest|sly|brave|timid|"
         "patient|restless|"
         "warm|cold|frozen|damp|dry|wet|muddy|sandy|mossy|leafy|thorny|fragrant|bitter|sweet|sour|salty|stale|fresh|ripe|rotten|raw|sharp|"
         "blunt|thick|thin|"
         "hollow|solid|loose|tight|steady|shaky|swift|slow|early|late|ancient|modern|rusty|shiny|misty|cloudy|sunny|windy|stormy|snowy|"
         "distant|nearby|"
         "foreign|local|northern|southern|eastern|western|lonely|crowded|peaceful|gilded|carved|woven|knitted|embroidered|folded|rolled|"
         "sealed|unopened|"
         "torn|patched|spare|second|third|last|first|other|favourite|unusual|remarkable|modest|grand|splendid|simple|delicate|sturdy|"
         "fragile|useful|useless|"
         "mysterious|familiar|enormous|tiny|slender|broad|shallow|deep|steep|winding|abandoned|unfinished|half-empty|well-worn|hand-made|"
         "weather-beaten";
}

std::string_view transitive_verbs() {
  return "carried|lifted|dropped|found|lost|hid|moved|pushed|pulled|painted|repaired|cleaned|washed|polished|sold|bought|borrowed|lent|"
         "returned|kept|"
         "admired|ignored|examined|measured|weighed|counted|described|sketched|copied|collected|sorted|wrapped|unwrapped|opened|closed|"
         "locked|unlocked|"
         "guarded|watched|followed|noticed|recognised|remembered|forgot|mentioned|praised|blamed|wanted|needed|chose|refused|accepted|"
         "offered|delivered|"
         "fetched|brought|sent|received|built|broke|mended|covered|uncovered|buried|dug "
         "up|cut|tied|untied|hung|placed|left|took|stole|rescued|threw|caught|"
         "touched|shook|turned|raised|lowered|tested|improved|ruined|replaced|removed|shared|traded|inspected|labelled|arranged|decorated|"
         "balanced|dragged|"
         "packed|unpacked|stored|displayed|pointed at|looked for|asked about|argued about|laughed at|waited for|cared for|dreamed of|wrote "
         "about|sang about|"
         "paid for|carved|dusted|emptied|filled|gathered|handed over|heated|cooled|held|inherited|invented|kicked|leaned "
         "on|missed|named|ordered|passed|"
         "photographed|planted|protected|rolled|scratched|searched for|steered|studied|tasted|trusted|warmed|welcomed|won";
}

std::string_view intransitive_verbs() {
  return "waited|slept|smiled|laughed|sighed|nodded|shrugged|whispered|shouted|sang|danced|walked|ran|stumbled|hesitated|listened|stopped|"
         "continued|"
         "returned|departed|arrived|rested|worked|hurried|wandered|sat down|stood up|woke up|went home|fell asleep|looked up|looked "
         "away|turned around|"
         "said "
         "nothing|agreed|disagreed|objected|apologised|complained|yawned|shivered|coughed|sneezed|frowned|blushed|trembled|wept|prayed|"
         "whistled|hummed|"
         "stayed behind|moved on|gave up|tried again|kept quiet|grew older|felt better|caught cold|changed trains|took notes|lost "
         "patience|found courage|"
         "paid at once|left early|came late|began to read|started to cook|learned to swim|refused to hurry|promised to write|pretended to "
         "sleep|wished for rain|"
         "hoped for snow|counted to ten|thought it over|went fishing|mended shoes|baked bread|kept bees";
}

std::string_view adverbs() {
  return "slowly|quickly|quietly|carefully|gently|proudly|sadly|gladly|boldly|shyly|patiently|eagerly|calmly|politely|rudely|secretly|"
         "openly|suddenly|"
         "gradually|finally|simply|clearly|silently|gracefully|clumsily|cheerfully|"
         "gloomily|honestly|"
         "kindly|wisely|foolishly|lazily|briskly|firmly|loosely|warmly|coldly|neatly|badly|perfectly|nervously|bravely|thoughtfully|"
         "absently|reluctantly|"
         "willingly|hastily|steadily|solemnly|merrily|curiously|doubtfully";
}

std::string_view roles() {
  return "baker|butcher|carpenter|blacksmith|tailor|weaver|potter|miller|farmer|shepherd|gardener|fisherman|sailor|captain|pilot|ferryman|"
         "innkeeper|cook|"
         "waiter|porter|clerk|banker|merchant|pedlar|lawyer|judge|mayor|sheriff|soldier|sergeant|doctor|nurse|chemist|dentist|teacher|"
         "pupil|student|"
         "professor|librarian|printer|bookbinder|painter|sculptor|musician|organist|singer|dancer|actor|juggler|poet|novelist|reporter|"
         "photographer|"
         "engineer|mechanic|electrician|plumber|mason|roofer|glazier|locksmith|watchmaker|jeweller|cobbler|hatter|barber|laundress|"
         "seamstress|maid|butler|"
         "coachman|driver|postman|messenger|watchman|lighthouse "
         "keeper|beekeeper|hunter|ranger|geologist|astronomer|botanist|surveyor|bishop|monk|vicar|"
         "widow|orphan|grandmother|uncle|cousin|neighbour|stranger|traveller|visitor|hermit";
}

std::string_view places() {
  return "harbour|market|station|library|museum|theatre|chapel|cathedral|monastery|castle|palace|cottage|farmhouse|barn|stable|mill|bakery|"
         "brewery|forge|"
         "workshop|factory|warehouse|school|college|hospital|courthouse|town hall|prison|post "
         "office|bank|inn|tavern|kitchen|cellar|attic|parlour|corridor|"
         "staircase|balcony|courtyard|garden|orchard|vineyard|meadow|pasture|field|forest|grove|thicket|marsh|swamp|lake|pond|river|stream|"
         "waterfall|spring|"
         "canal|bridge|ford|ferry "
         "landing|island|beach|cliff|cave|quarry|mine|valley|hill|mountain|ridge|pass|glacier|desert|plain|crossroads|road|lane|"
         "footpath|square|fountain|tower|lighthouse|city "
         "wall|gatehouse|cemetery|park|playground|greenhouse|observatory|laboratory|printing house|archive|"
         "customs house|shipyard|dock|pier|lock|railway line|tunnel|viaduct|signal box|village green|sawmill|tannery|dairy|well";
}

std::string_view prepositions() {
  return "near|behind|beside|beyond|above|below|inside|outside|opposite|in front of|not far from|on the way to|at the edge of|across "
         "from|close to|"
         "in the shadow of|on the far side of|within sight of|a mile from|to the north of|to the south of";
}

std::string_view numbers() {
  return "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|"
         "thirty|forty|"
         "fifty|sixty|seventy|eighty|ninety|a hundred|several|many|a few|countless|some|a dozen";
}

std::string_view openings() {
  return "Yesterday|In the evening|Before dawn|At noon|Around midnight|Last winter|The next spring|One summer|In those days|Years "
         "later|Soon afterwards|"
         "That same night|On Monday|On Tuesday|On Wednesday|On Thursday|On Friday|On Saturday|On Sunday|After supper|Before "
         "breakfast|During the storm|"
         "After the harvest|Long ago|In the meantime|From time to time|As usual|To everyone's surprise|Without a word|For no clear "
         "reason|At the same hour|"
         "On the following day|A week later|Toward the end of autumn|When the snow melted|While the others slept|As the bells rang|Once "
         "the rain had stopped|"
         "Just then|At first|In the end|By and by|Every so often|Late in the afternoon|Not long after|Under a full moon|In spite of the "
         "cold|Against all advice";
}

std::string_view materials() {
  return "wood|iron|copper|brass|silver|tin|lead|glass|clay|stone|marble|granite|slate|paper|leather|wool|linen|cotton|silk|velvet|felt|"
         "straw|wax|amber|"
         "ivory|oak|walnut|birch|pine|bamboo|porcelain|plaster|rubber|canvas";
}

std::span<const std::string_view> sentences() {
  static constexpr std::string_view kTemplates[] = {
      "The $w $t the $a $n $r the $P.",
      "$N $t the $n, and the $w $i.",
      "$q, $N $t the $a $n that the $w had left $r the $a $P.",
      "$N and $N $i $d $r the $P.",
      "The $a $n stood $r the $a $P, where nobody $t it.",
      "$q, $c $s were found $r the $P.",
      "\"Where is the $a $n?\" asked $N.",
      "\"It is $r the $P,\" said the $w $d.",
      "The $w had never $t the $n before, but $N $d explained how it worked.",
      "$N $t the $n because the $w had $t the $n.",
      "There were $c $a $s $r the $P.",
      "$q, the $w $d $t a pair of $a $s.",
      "The $n was made of $u, and the $s were made of $u.",
      "Nobody knew why the $w $t the $a $s.",
      "$N's $n was $a, while the $n of the $w was $a and $a.",
      "While $N $i, the $w $d $t the $n.",
      "The $P was $a, and the $P beyond it was $a.",
      "$q, the road to the $P was $a.",
      "When the $w $i, $N $t the $n and $i.",
      "If the $a $n had not been so $a, the $w would have taken it to the $P.",
      "$N gave the $w $c $s in exchange for the $a $n.",
      "The $w told $N about the $a $n $r the $P.",
      "Every morning the $w $t the $s, and every evening $N $t the $s.",
      "Some said that the $n belonged to $N; others believed that the $w had $d $t it.",
      "\"I would rather have the $a $n than $c $a $s,\" said $N.",
      "\"You should ask the $w,\" $N answered, \"who $d $t the $n last year.\"",
      "$N wrote a letter to the $w about the $a $P and the $s.",
      "The $a $w from the $P $t $N's $n.",
      "$q, nobody except $N had $t the $n.",
      "The $n fell $r the $P, and $c $s rolled after it.",
      "It took $N $c days to carry the $a $n from the $P to the $P.",
      "The $w, who $i, had once been a $w $r the $a $P.",
      "Neither $N nor the $w $t the $n of $u.",
      "$N looked at the $n, then at the $s, and $i.",
      "The price of the $n was $c coins, which the $w $d paid.",
      "Between the $P and the $P lay a field of $a $s.",
      "The $w and the $w $d argued about the $a $n until $N $i.",
      "A box of $u held $c $s and one $a $n.",
      "$q, the $a wind blew over the $P, and $N $i.",
      "They $t the $n, $t the $s and $i.",
      "What $N wanted most was the $a $n in the window of the $P.",
      "The children of the $w $t the $s $r the $P.",
      "The $n was older than the $P, or so the $w said.",
      "$N $d $t the $n with a piece of $u.",
      "Of all the $s in the $P, only the $a one pleased the $w.",
      "The $w promised $N the $n, the $s and $c loads of $u.",
      "$q, the $w of the $P $t $N's $a $s.",
      "Although the $n was $a, the $w $d $t it.",
      "\"Have you seen my $n?\" the $w asked. $N $i.",
      "The story of the $a $n is told $r the $P to this day.",
  };
  return kTemplates;
}

std::span<const std::string_view> short_sentences() {
  static constexpr std::string_view kTemplates[] = {
      "$N $i.",         "The $w $i.",     "It rained.",   "So it was.", "Nobody $i.",  "$N $t it.",
      "The $n was $a.", "Then $N $i $d.", "Time passed.", "They $i.",   "All was $a.",
  };
  return kTemplates;
}

}  // namespace cairn::prose
