"""Questions about zinc's commands and options: (intent, wordings, answer)."""

from .phrases import HOW, command, option

COMMANDS = [
    # Commands.
    (
        "run",
        command(
            "run",
            [
                "[run command|zinc run]",
                "how do i ask [a question|one question|something] [on|from] the [command line|terminal|shell]",
                "[can i|how do i] use zinc in a [script|shell script|pipe|pipeline]",
            ],
        ),
        '`zinc run` answers one prompt and writes the text to stdout. The prompt is an argument, a file or stdin: `zinc run -m model.gguf "Tell me a story"`. Statistics go to stderr.',
    ),
    (
        "chat",
        command(
            "chat",
            [
                f"{HOW} [chat|talk|have a conversation|chat with a model|talk to a model|start a chat|open a chat|talk with a model]",
                "can i chat [with a model|in the terminal|with zinc|]",
                "is there a chat [mode|window|]",
                "interactive mode",
                "does zinc have a chat",
            ],
        ),
        "`zinc chat` opens a conversation in the terminal, with line editing, history and commands such as `/help`, `/clear` and `/save`. Add `-m model.gguf` to choose a model.",
    ),
    (
        "inspect",
        command(
            "inspect",
            [
                f"{HOW} [see|show|look at|view|read|print] [the metadata|what is in a gguf file|what is inside a model|a model's metadata|the tensors|model information|the tensors of a model]",
                f"{HOW} [look inside|examine|inspect] [a model|a gguf file|a gguf]",
                "how much memory does [a model|my model|the model] need",
                f"{HOW} [find out|see|know] how much memory a model needs",
                "which command shows the metadata",
                "does my model fit in memory",
            ],
        ),
        "`zinc inspect -m model.gguf` shows what is in a model file: its metadata, its tensors and how much memory it needs.",
    ),
    (
        "doctor",
        command(
            "doctor",
            [
                "[something is wrong|zinc does not work|zinc is broken|it does not work|nothing works|it crashes|i have a problem with zinc|zinc fails], what [can|should] i do",
                f"{HOW} [check|test|verify] [my machine|my gpu|my installation|my setup|whether zinc works|my devices|that everything works]",
                "[which|what] command checks [my machine|my gpu|the machine|my setup]",
                "is my [gpu|machine|computer] [supported|ok|good enough]",
                f"{HOW} [diagnose|debug|troubleshoot] zinc",
                "health check",
                "does zinc have a self-test",
                f"{HOW} see which devices i have",
                "how do i know which device is used",
                "which device is it using",
                "is my gpu used",
                "my gpu is not [found|detected|used]",
                "is there a [health check|diagnosis|self-test]",
            ],
        ),
        "`zinc doctor` checks your machine: it lists the devices and runs a self-test on each that really computes and compares the result with the reference.",
    ),
    (
        "tokenize",
        command(
            "tokenize",
            [
                f"{HOW} [see|get|count|print|show] [the tokens|token ids|tokens|the token ids] [of a text|of a prompt|of a sentence|]",
                f"{HOW} [turn text into tokens|convert text to tokens|tokenize text|tokenize a file]",
                "how many tokens does my [text|prompt] have",
            ],
        ),
        '`zinc tokenize -m model.gguf "some text"` prints the token ids as a JSON array. `--bos` adds the beginning token, `--parse-special` reads special tokens, and `--file` takes the text from a file.',
    ),
    (
        "template",
        command(
            "template",
            [
                f"{HOW} [see|render|test|print|check] [the chat template|a chat template|the rendered prompt|my template]",
                f"{HOW} see the exact prompt [the model gets|that is sent to the model|]",
            ],
        ),
        "`zinc template -m model.gguf --input chat.json` prints the prompt that the model's chat template makes from the messages in `chat.json`, byte for byte.",
    ),
    (
        "logits",
        command("logits", [f"{HOW} [get|save|write|see|export] [the logits|logits|the raw logits|raw model output]"]),
        "`zinc logits -m model.gguf --tokens 1,2,3 --out out.safetensors` writes the model's raw scores for every token position, for tests and comparisons.",
    ),
    (
        "bench",
        command(
            "bench",
            [
                f"{HOW} [measure|benchmark|test|find out] [the speed|how fast a model is|how fast my machine is|the speed of a model|performance|my gpu|my cpu]",
                "how fast is [zinc|my machine|my gpu|my computer]",
                "[is zinc fast|how many tokens per second do i get]",
                f"{HOW} benchmark [zinc|a model|]",
                "which command measures the speed",
            ],
        ),
        "`zinc bench -m model.gguf -p 512 -n 128` measures the speed of reading a prompt and of writing tokens, and prints the medians in tokens per second; add `--json` for programs.",
    ),
    (
        "diff",
        command(
            "diff",
            [
                f"{HOW} [compare|check] two [devices|backends]",
                f"{HOW} find [the first wrong tensor|where two devices differ|a wrong tensor]",
                "do my [gpu and cpu|devices] agree",
            ],
        ),
        "`zinc diff -m model.gguf --device cpu --against reference` runs a model on two devices and names the first tensor that differs beyond tolerance, if any.",
    ),
    (
        "serve",
        [
            "[does zinc have|is there|can i run|how do i start|how do i run] [a server|an api|an openai server|an api server|an http server|a web server]",
            "zinc serve",
            "does zinc have an [api|openai api]",
            "is zinc compatible with [openai|the openai api]",
            "can i use zinc [from|with] [my editor|vs code|python|codex|an agent]",
            "is there a [web|browser] [interface|chat|ui]",
        ],
        "An OpenAI-compatible server with a browser chat is part of zinc's plan. `zinc --help` shows whether your version already has `zinc serve`.",
    ),
    (
        "model-cmd",
        [
            "[zinc model|the model command|zinc pull|zinc model pull|what does zinc pull do]",
            "can zinc download models",
            "does zinc download models [for me|by itself|automatically]",
            "is there a [catalog|catalogue|model list|model library]",
        ],
        "A catalog that downloads models is planned. Until your version has it, download a GGUF file yourself and name it with `-m`; `zinc --help` shows what is there.",
    ),
    # Options.
    (
        "opt-m",
        option("-m", ["[why|when] do i need -m"]),
        '`-m` names the model file: `zinc run -m model.gguf "Hello"`. Without it zinc uses the active model, or else the built-in one.',
    ),
    (
        "opt-n",
        option(
            "-n",
            [
                f"{HOW} [limit|set|change|make shorter|control] the [length|length of the answer|number of tokens|answer length|length of the text]",
                f"{HOW} [get|make] [longer|shorter] answers",
                "the answer is too [long|short]",
                "the answer is cut off",
                f"{HOW} generate only 10 tokens",
            ],
        ),
        '`-n` sets how many tokens to write at most: `zinc run -n 100 "Tell me a story"`. In `zinc bench` it is the number of tokens to time.',
    ),
    (
        "opt-temp",
        option(
            "--temp",
            [
                "[what is|explain|what does] temperature [mean|do|]",
                f"{HOW} [set|change] the temperature",
                f"{HOW} [get|make] [more random|more creative|less random|deterministic|the same|reproducible] [answers|text|output]",
                "why is the answer [different each time|always different|always the same]",
                "what is greedy decoding",
                f"{HOW} get the same answer every time",
            ],
        ),
        "`--temp` sets the temperature: higher values make the text more varied, and `--temp 0` always takes the most likely token, so that the answer is the same every time.",
    ),
    (
        "opt-raw",
        option(
            "--raw",
            [f"{HOW} [run without|skip|turn off|avoid] the chat template", f"{HOW} [continue|complete] a text", "can zinc complete text"],
        ),
        "`--raw` gives your prompt to the model as it is, without the chat template, so that the model continues the text.",
    ),
    (
        "opt-json",
        option("--json", [f"{HOW} get [machine readable|json] output", "can zinc print json"]),
        "`--json` prints the result of a command as JSON, for programs to read.",
    ),
    (
        "opt-device",
        option(
            "--device",
            [
                f"{HOW} [choose|select|pick|change|set|force] [the device|a device|the gpu|my gpu|the cpu|the backend|which gpu is used]",
                f"{HOW} [run on|use] [the cpu|the gpu|my gpu|only the cpu|cuda|vulkan|metal]",
                "[how are|what are] devices [named|called]",
                "device names",
            ],
        ),
        "`--device` chooses where to compute: `reference`, `cpu`, `cuda0`, `vulkan0` or `metal0`, and so on. By default zinc takes the fastest device that passes its self-test.",
    ),
    (
        "opt-threads",
        option(
            "--threads",
            [
                f"{HOW} [set|change|limit] the number of threads",
                f"{HOW} use [fewer|more|all] [threads|cores]",
                "how many threads does zinc use",
            ],
        ),
        "`--threads` sets how many CPU threads zinc uses.",
    ),
    (
        "opt-kv",
        option(
            "--kv", [f"{HOW} [change|set] the [type|precision] of the kv cache", "[what is|explain] the kv cache", "what is a kv cache"]
        ),
        "The KV cache holds the keys and values of the tokens so far, so that they are not computed again. `--kv` sets its number type: `f16` by default, or `f32`, or `q8_0`.",
    ),
    (
        "opt-chunk",
        option("--chunk", ["what is a chunk", "what is chunked prefill"]),
        "`--chunk` sets how many prompt tokens are processed at once. It changes speed and memory, not the result.",
    ),
    (
        "opt-seed",
        option("--seed", [f"{HOW} [set|use|fix] [a seed|the seed]", "what is a seed"]),
        "A seed fixes the random choices of sampling: the same seed, prompt and settings give the same text.",
    ),
    # Chat commands.
    (
        "slash",
        [
            "[what|which] commands [are there in the chat|does the chat have|can i use in the chat|work in zinc chat]",
            "[chat commands|slash commands]",
            "what can i type in the chat",
            "list the [chat|slash] commands",
            option("/help")[0],
        ],
        "In `zinc chat` you can type `/help`, `/clear` to start over, `/save` to keep the conversation, `/system` to set the system prompt and `/temp` to change the temperature.",
    ),
    (
        "slash-clear",
        [
            option("/clear")[0],
            f"{HOW} [clear|reset|restart|start over|empty] [the chat|a conversation|the conversation|in the chat]",
            f"{HOW} start a new [chat|conversation]",
        ],
        "`/clear` forgets the conversation and starts a new one.",
    ),
    (
        "slash-save",
        [option("/save")[0], f"{HOW} [save|keep|export|store] [the chat|a conversation|the conversation|my chat]"],
        "`/save` writes the conversation of `zinc chat` to a file.",
    ),
    (
        "slash-system",
        [option("/system")[0], f"{HOW} [set|change|give] [the system prompt|a system prompt]", "what is a system prompt"],
        "A system prompt tells the model how to behave. In `zinc chat`, `/system` sets it: `/system You are a helpful assistant.`",
    ),
    (
        "slash-temp",
        [option("/temp")[0], f"{HOW} change the temperature in the chat"],
        "`/temp` changes the temperature in `zinc chat`: `/temp 0.7`.",
    ),
    (
        "quit",
        [
            f"{HOW} [quit|exit|leave|close|end] [zinc|the chat|chat|zinc chat|]",
            f"{HOW} [stop|interrupt|cancel|abort] [the answer|generation|the model|zinc|it|a long answer]",
            "what does ctrl-c do",
            "[exit|quit]",
        ],
        "Ctrl-C stops the answer cleanly, and Ctrl-D leaves the chat.",
    ),
]
