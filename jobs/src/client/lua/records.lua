-- The Redis queue of larder: every step of a job as one atomic script.
--
-- This file and the four others (rules.lua, inbox.lua, steps.lua, fleet.lua) are sent as one, in this order.
-- KEYS[1] is the prefix of all keys, with the one hash tag; ARGV[1] is the verb. What may happen to a job is
-- defined by larder's pure rules (src/queue/rules.rs); this file says the same in Redis' language, and a
-- property test runs both side by side. Times are microseconds since the epoch by the clock of this server.
--
--   job:<id>              hash     the record, one field each; absent means none
--   jobs:<kind>:<state>   zset     ids by place in the order of asking; the queued by when they became so
--   ready:<kind>:<queue>  zset     queued jobs: score when they could first run, less AGE for each point of priority;
--                                  member place .. id
--   due:<kind>:<queue>    zset     waiting jobs by when they may run
--   leases                zset     running jobs by when their claim ends
--   deadlines:<kind>      zset     jobs that have not ended by when they must have
--   ended                 zset     id:kind:state by when they ended; of those that ended together by id
--   wants                 hash     queue and want -> the job in flight that does it
--   key:<text>            string   idempotency key -> id, gone a while after the job ended
--   claims                hash     the number that a claim came with -> the job that runs under it
--   inbox                 zset     requests that came by FCALL and were not looked at yet: id .. json
--   seq, asked            counter  the order of asking, and of asking by FCALL
--   batch:<id>, batches   hash     jobs that were asked for together; zset of their ids by when
--   hosts, host:<name>    zset and string: the larders that were there a moment ago
--   known, about          zset     every host that was there or that jobs name, by when; hash: what each said of itself
--   drained               hash     hosts that take no jobs -> since when, and who said so
--   running               hash     how many jobs run on each host; as it says itself at every heartbeat
--   run:<name>            string   the host that asks for the jobs of a schedule's run; empty once it has
--   limits, sharing       hash     what the whole fleet may take; zset of the hosts that download now, by when
--   stock:<name>          hash     repo@commit -> bytes and last use of each model in its cache
--   has:<repo>            hash     host@commit -> the same, the other way round
--   notices               zset     ended jobs (id) and open batches (batch:<id>) of which somebody wants to be told, by when
--                                  a larder is to look
--   layout, born          string   the version of these keys, and since when they are there
-- Channels: to:host:<name> says "ready <kind>", "cancel <id>", "drained" and "notices"; to:pool says "any <kind>", "none
-- <kind>" when the last one is taken, "limits", and "inbox"; about:<id> says the new state.

local P = KEYS[1]
local CHUNK = 64
-- A point of priority is worth ten minutes of waiting, so that the least urgent job has its turn too.
local AGE = 600000000
local KINDS = { 'download', 'evict', 'verify', 'profile', 'preload' }
-- Queued jobs that are looked at for one page of a list.
local PAGED = 2000
-- Windows of a job, as in jobs/src/window.rs.
local MAX_WINDOWS = 8
local UNENDED = { 'queued', 'waiting', 'planning', 'fetching', 'verifying', 'running' }
local RUNNING = { planning = true, fetching = true, verifying = true, running = true }
local ENDED = { ready = true, done = true, failed = true, cancelled = true }

local clock = redis.call('TIME')
local NOW = clock[1] * 1000000 + clock[2]

local function int(number) return string.format('%.0f', number) end
local function given(text) return text ~= '' and text end
local function number(job, field) return tonumber(job[field] or 0) end

-- An ended job is kept for long, and a hash without a longer value, and with no more fields than that, takes half the
-- room (hash-max-listpack-value, hash-max-listpack-entries): the long ones of an ended job are cut, and go on in the fields
-- <name>:1, <name>:2 and so on.
local SHORT, MANY = 64, 120

-- The text in short pieces, none of which ends within a character.
local function cut(text)
  if text == '' then return { '' } end
  local list, from = {}, 1
  while from <= #text do
    local to = math.min(from + SHORT - 1, #text)
    local next = string.byte(text, to + 1)
    while next and next > 127 and next < 192 and to > from do
      next = string.byte(text, to)
      to = to - 1
    end
    list[#list + 1] = string.sub(text, from, to)
    from = to + 1
  end
  return list
end

-- The record as a list of fields and values for an ended job: in pieces, unless there would be too many.
local function packed(job)
  local list, count = {}, 0
  for field, value in pairs(job) do
    for n, piece in ipairs(cut(value)) do
      list[#list + 1], list[#list + 2] = n == 1 and field or field .. ':' .. (n - 1), piece
      count = count + 1
    end
    if count > MANY then return nil end
  end
  return list
end

local function flat(job)
  local list = {}
  for field, value in pairs(job) do list[#list + 1], list[#list + 2] = field, value end
  return list
end

-- Puts the pieces of an ended job together.
local function join(job)
  local more = {}
  for field, piece in pairs(job) do
    local name, n = string.match(field, '^(.-):(%d+)$')
    if name then
      more[name] = more[name] or {}
      more[name][tonumber(n)] = piece
    end
  end
  for name, list in pairs(more) do
    for n = 1, #list do job[name .. ':' .. n] = nil end
    job[name] = (job[name] or '') .. table.concat(list)
  end
end

-- Of the jobs of this step: what was read of each, and how many milliseconds an ended one is kept.
local RAW, FORGET = {}, {}

local function load(id)
  -- A key of another type is no job, and must not stop the others.
  local raw = redis.pcall('HGETALL', P .. 'job:' .. id)
  -- Any other refusal is told, by asking again.
  if raw.err and not string.find(raw.err, 'WRONGTYPE', 1, true) then redis.call('HGETALL', P .. 'job:' .. id) end
  if raw.err or #raw == 0 then return nil end
  local job = {}
  for i = 1, #raw, 2 do job[raw[i]] = raw[i + 1] end
  if ENDED[job.state] then
    join(job)
    raw = flat(job)
  end
  RAW[job] = raw
  return job
end

-- A job to be changed: it reads like `old`, and has as its own fields what differs; `false` is none.
local function draft(old) return setmetatable({}, { __index = old }) end

-- The record as a list of fields and values; a later one replaces an earlier one.
local function reply(job, old)
  local out = old and RAW[old] or RAW[job] or {}
  if RAW[job] then return out end
  local n = #out
  for field, value in pairs(job) do
    out[n + 1], out[n + 2] = field, value
    n = n + 2
  end
  return out
end

local function is_whole(job)
  return job.id and job.kind and job.target and job.want and job.job
    and (job.state == 'queued' or job.state == 'waiting' or ENDED[job.state]
      or RUNNING[job.state] and tonumber(job.lease_until))
    and tonumber(job.seq) and number(job, 'priority') and number(job, 'attempts') and number(job, 'token')
end

local function joinable(job) return not ENDED[job.state] and not job.cancel end

local function since(job) return tonumber(job.due or job.created_at or 0) or 0 end

-- Where a job lies: the key of its state, and the key of its place, each with score and member.
local function places(job)
  local state, seq = job.state, tonumber(job.seq)
  local by = job.kind .. ':' .. job.target
  local all = { P .. 'jobs:' .. job.kind .. ':' .. state, state == 'queued' and since(job) or seq, job.id }
  if state == 'queued' then
    local score = (tonumber(job.ages_from or job.created_at) or 0) - number(job, 'priority') * AGE
    return all, { P .. 'ready:' .. by, score, string.format('%016.0f', seq) .. job.id }
  elseif state == 'waiting' then
    return all, { P .. 'due:' .. by, since(job), job.id }
  elseif ENDED[state] then
    return all, { P .. 'ended', tonumber(job.finished_at), job.id .. ':' .. job.kind .. ':' .. state }
  end
  return all, { P .. 'leases', tonumber(job.lease_until), job.id }
end

local function want_of(job) return job.target .. ' ' .. job.want end

-- The job in flight that does the same; one that is not there any more does nothing.
local function rival(job)
  local id = redis.call('HGET', P .. 'wants', want_of(job))
  if not id then return nil end
  if redis.call('EXISTS', P .. 'job:' .. id) == 1 then return id end
  redis.call('HDEL', P .. 'wants', want_of(job))
end

local function move(from, to)
  local stays = from and from[1] == to[1] and from[3] == to[3]
  if not stays or from[2] ~= to[2] then redis.call('ZADD', to[1], int(to[2]), to[3]) end
  if from and not stays then redis.call('ZREM', from[1], from[3]) end
end

local function names(text)
  local fine, list = pcall(cjson.decode, text)
  return fine and type(list) == 'table' and list or {}
end

-- Writes what `job` has as its own. The first write is one that Redis refuses when its memory is full, so a refusal
-- changes nothing. A job that ends is written anew, since a hash keeps the room that it had when it held most; one that
-- runs again, too, since it is no longer in pieces.
local function write(key, old, job)
  local set, gone = {}, {}
  for field, value in pairs(job) do
    if value then
      set[#set + 1], set[#set + 2] = field, value
    elseif old and old[field] then
      gone[#gone + 1] = field
    end
  end
  local was, is = old and ENDED[old.state], ENDED[job.state]
  if was ~= is then
    local all = {}
    for field, value in pairs(old or {}) do all[field] = value end
    for field, value in pairs(job) do all[field] = value or nil end
    redis.call('HSET', P .. 'ended:job', unpack(is and packed(all) or flat(all)))
    redis.call('RENAME', P .. 'ended:job', key)
    return
  end
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
end

-- Microseconds from the end of one job of a batch to the look whether all have ended, and to the look that none caused.
local SOON, LATER = 1000000, 60000000

-- One larder looks after what others want to be told: `first` if it listens, else one of three. Should none of them be
-- there, the next one that tidies does.
local function look_at_notices(first)
  if first and redis.call('PUBLISH', P .. 'to:host:' .. first, 'notices') > 0 then return end
  local hosts = redis.call('ZCARD', P .. 'hosts')
  for n = 1, math.min(3, hosts) do
    local at = (NOW + n) % hosts
    local host = redis.call('ZRANGE', P .. 'hosts', int(at), int(at))[1]
    if redis.call('PUBLISH', P .. 'to:host:' .. host, 'notices') > 0 then return end
  end
end

-- Somebody may want to be told that this job has ended, or that it was the last one of its batch.
local function note_end(job)
  local told = #names(job.notify) > 0
  if told then redis.call('ZADD', P .. 'notices', int(NOW), job.id) end
  local batch = job.parent and 'batch:' .. job.parent
  if batch and redis.call('ZADD', P .. 'notices', 'XX', 'LT', 'CH', int(NOW + SOON), batch) > 0 then told = true end
  if told then look_at_notices(job.owner) end
end

-- How many run on each host: best is who has the fewest, and a heartbeat comes too late for many jobs at once.
local function add_running(host, more)
  local count = (tonumber(redis.call('HGET', P .. 'running', host)) or 0) + more
  if count > 0 then redis.call('HSET', P .. 'running', host, int(count)) else redis.call('HDEL', P .. 'running', host) end
end

local function count_running(old, job)
  local was, is = old and RUNNING[old.state] and old.owner, RUNNING[job.state] and job.owner
  if was == is then return end
  if was then add_running(was, -1) end
  if is then add_running(is, 1) end
end

-- Writes `job`, and moves it from where `old` (nil for a new job) lay to where it lies now.
local function save(old, job)
  local key = P .. 'job:' .. job.id
  write(key, old, job)
  -- The reaper forgets it at its time; the server does if no reaper is there.
  if FORGET[job] then
    redis.call('PEXPIRE', key, FORGET[job])
    for _, text in ipairs(names(job.keys)) do redis.call('PEXPIRE', P .. 'key:' .. text, FORGET[job]) end
  end
  local all, place = places(job)
  local was_all, was_place
  if old then was_all, was_place = places(old) end
  move(was_all, all)
  move(was_place, place)
  count_running(old, job)
  local was, is = old and not ENDED[old.state] and old.deadline, not ENDED[job.state] and job.deadline
  if is and is ~= was then redis.call('ZADD', P .. 'deadlines:' .. job.kind, is, job.id) end
  if was and not is then redis.call('ZREM', P .. 'deadlines:' .. old.kind, job.id) end
  local flew, flies = old and joinable(old), joinable(job)
  local moved = flew and flies and want_of(old) ~= want_of(job)
  if flew and (moved or not flies) and redis.call('HGET', P .. 'wants', want_of(old)) == job.id then
    redis.call('HDEL', P .. 'wants', want_of(old))
  end
  if flies and (moved or not flew) then redis.call('HSETNX', P .. 'wants', want_of(job), job.id) end
  local nonce, earlier = job.nonce, old and old.nonce
  if nonce and nonce ~= earlier then redis.call('HSET', P .. 'claims', nonce, job.id) end
  if earlier and nonce ~= earlier then redis.call('HDEL', P .. 'claims', earlier) end
  local state = job.state
  local same = old and old.state == state
  if (state == 'queued' or state == 'waiting') and not (same and old.due == job.due) then
    redis.call('PUBLISH', P .. 'to:' .. job.target, (job.target == 'pool' and 'any ' or 'ready ') .. job.kind)
  end
  if not same then redis.call('PUBLISH', P .. 'about:' .. job.id, state) end
  if ENDED[state] and not (old and ENDED[old.state]) then note_end(job) end
end

local function written(list) return #list > 0 and cjson.encode(list) end

-- Adds a name within the bounds of a record; says whether it is remembered.
local function remember(job, field, name, most, bytes)
  local list = names(job[field])
  for _, known in ipairs(list) do
    if known == name then return true end
  end
  list[#list + 1] = name
  local text = cjson.encode(list)
  if #list > (most or 64) or #text > (bytes or 6144) then return false end
  job[field] = text
  return true
end

local function remember_requester(job, name)
  if not name or not remember(job, 'requesters', name) then job.anonymous = '1' end
end

local function remember_key(job, key)
  if key and remember(job, 'keys', key) then redis.call('SET', P .. 'key:' .. key, job.id) end
end

-- Whether there is such a batch, and it remembers the key.
local function remember_batch_key(id, key)
  local at = P .. 'batch:' .. id
  local batch = { keys = redis.call('HGET', at, 'keys') }
  if redis.call('EXISTS', at) == 0 or not remember(batch, 'keys', key) then return false end
  redis.call('HSET', at, 'keys', batch.keys)
  redis.call('SET', P .. 'key:' .. key, id)
  return true
end

local function remember_notify(job, url)
  if given(url) then remember(job, 'notify', url, 8, 2048) end
end

