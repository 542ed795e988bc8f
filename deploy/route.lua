-- Orthanc sends each new film to cxrlines, and never what cxrlines sends back.
function OnStoredInstance(instanceId, tags, metadata, origin)
  local film = tags['Modality'] == 'CR' or tags['Modality'] == 'DX'
  if film and tags['Manufacturer'] ~= 'cxrlines' then
    SendToModality(instanceId, 'cxrlines')
  end
end
